"""Experiments: baselines, comparison of fusions, category granularity."""
