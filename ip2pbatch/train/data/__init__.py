"""Photos, pairs and shards as the other stages read and write them."""
