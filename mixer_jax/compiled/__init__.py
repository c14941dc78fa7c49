"""Compiles a stage for a TPU pod without one, and reads its costs."""
