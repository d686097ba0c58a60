"""Pixels and files of pictures. Knows nothing of runs."""
