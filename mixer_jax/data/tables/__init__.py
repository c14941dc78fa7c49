"""Sample tables: rules, reading and validation."""
