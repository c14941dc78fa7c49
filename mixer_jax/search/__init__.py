"""Exact nearest neighbors by cosine, with the rows sharded over the mesh."""
