"""What a person wrote: recipes, flags, CSV, their forms and their mistakes. Never: photos, pictures or sizes."""
