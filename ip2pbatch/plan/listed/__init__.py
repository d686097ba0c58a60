"""Photos from a manifest: a CSV that names them, so that no folder is walked and no photo is opened to plan them."""
