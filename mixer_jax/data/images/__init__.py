"""Image decoding to square RGB pixels within memory limits."""
