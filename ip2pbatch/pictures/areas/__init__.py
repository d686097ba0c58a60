"""Regions as pixels: how much of each pixel is edited, and how the edit and the photo are put together."""
