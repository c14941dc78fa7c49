"""What every command stands on: its terminal, its files, its way to end."""
