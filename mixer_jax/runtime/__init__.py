"""The ground floor: how commands run and how files are written and read."""
