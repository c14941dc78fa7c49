"""Ahead-of-time compilation for TPU pods, and costs of the programs."""
