"""A run's folder: its config, categories and checkpoints."""
