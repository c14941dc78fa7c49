"""An index over HTTP: the application and its page."""
