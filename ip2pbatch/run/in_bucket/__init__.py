"""A run whose files are in a bucket: what is put there besides what it delivers."""
