"""The sample table: its rules, reading it, and checking it."""
