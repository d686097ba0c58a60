"""Making the pictures of a plan exist, once. What lies on the disk for that is run/directory's."""
