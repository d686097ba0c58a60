"""Pictures from captions or photos: drawn, scored and filtered."""
