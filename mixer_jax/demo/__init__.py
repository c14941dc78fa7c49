"""The demonstration: emoji, icons, and a simulated click log."""
