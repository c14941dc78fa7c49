"""The search page: one HTML file with its style sheet and scripts."""
