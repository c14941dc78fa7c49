"""What people look at: pages, contact sheets, plots."""
