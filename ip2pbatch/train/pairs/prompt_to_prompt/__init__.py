"""Pairs of pictures from pairs of captions, by Prompt-to-Prompt."""
