"""Ahead-of-time compilation for TPU pods, and program costs."""
