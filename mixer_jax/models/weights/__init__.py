"""Published weights in, variables of our encoders out."""
