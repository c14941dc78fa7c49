"""HTTP service for searching an index: a web page and a JSON API."""
