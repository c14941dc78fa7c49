"""The evidence: baselines, fusions compared, granularity of categories."""
