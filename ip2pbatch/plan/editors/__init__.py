"""Editors of the hub by short names."""
