"""What a recipe may not ask for although it is well written, because of what is to carry it out."""
