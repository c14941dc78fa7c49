"""3-D models: their files, their position, and their rendering."""
