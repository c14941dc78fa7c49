"""A graph of affinities in, clusters out; and merging them."""
