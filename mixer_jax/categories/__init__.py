"""Click log and catalogue in, category IDs out."""
