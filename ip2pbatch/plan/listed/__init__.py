"""Photos from a list: a CSV that names them, or what a bucket holds. No folder is walked to plan them."""
