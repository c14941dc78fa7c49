"""Ahead-of-time compilation for TPU pods, and the programs' costs."""
