"""Before and after in words: the edit triplets that pictures are drawn from."""
