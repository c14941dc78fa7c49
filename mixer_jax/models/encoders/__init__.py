"""Image and text encoders that match their published originals."""
