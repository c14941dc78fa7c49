"""Category discovery: category IDs from a click log and a catalog."""
