"""Inference with trained models: embedding, search, metrics and export."""
