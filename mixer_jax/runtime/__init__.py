"""Files, tables, ownership, progress and exit codes, shared by all commands."""
