"""HTTP requests and responses of the search service."""
