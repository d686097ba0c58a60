"""Files that survive: whole or not there, append-only lines, digests. Knows nothing of recipes, pictures or runs."""
