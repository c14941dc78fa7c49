"""Logs, monitors, profiles, and the watchdog of a run."""
