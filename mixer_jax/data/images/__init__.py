"""Image files in, square RGB pixels out, within memory limits."""
