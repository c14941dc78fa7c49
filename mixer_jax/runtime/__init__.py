"""The ground floor: files, processes and errors, shared by all commands."""
