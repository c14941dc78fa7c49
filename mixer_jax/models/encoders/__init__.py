"""Image and text encoders; `registry` lists them."""
