"""Exact nearest neighbors by cosine, with the rows split over the mesh."""
