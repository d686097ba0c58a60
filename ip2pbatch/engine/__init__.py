"""The diffusion: the denoise loop, its samplers and its benchmark."""
