"""Side-by-side benchmarks: commands that print a table and write JSON."""
