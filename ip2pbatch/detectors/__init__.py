"""What finds parts of photos: faces, and what words say. Each is a `run/masks.py: Detector`."""
