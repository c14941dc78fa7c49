"""Demo data: emoji, icons and a simulated click log."""
