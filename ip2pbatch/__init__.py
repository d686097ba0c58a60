"""Edit whole folders of photos by written instruction, with InstructPix2Pix."""

__version__ = "0.1.0"
