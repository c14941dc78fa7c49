"""Aggregation of click events into a clicks table, on Apache Beam."""
