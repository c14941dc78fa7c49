"""Reports: HTML pages, contact sheets and plots."""
