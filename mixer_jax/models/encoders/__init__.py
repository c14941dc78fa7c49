"""Image and text encoders, equal to their published originals."""
