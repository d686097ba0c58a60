"""What pictures should exist. Pure but for reading recipes and photo headers; no pixels, no clock, no device."""
