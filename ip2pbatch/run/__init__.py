"""Making the pictures of a plan exist, once."""
