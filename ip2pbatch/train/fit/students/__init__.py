"""Students of a model that is there: fewer rows a step, and fewer steps."""
