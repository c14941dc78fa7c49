"""Clustering of an affinity graph, and merging of the clusters."""
