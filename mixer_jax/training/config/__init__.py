"""Config keys, command-line flags, and the paths in a config."""
