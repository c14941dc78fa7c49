"""Sample tables, readers of public data sets, and input pipelines."""
