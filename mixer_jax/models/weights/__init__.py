"""Reading and writing of published encoder weights."""
