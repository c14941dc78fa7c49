"""The state, the step, the curriculum, checkpoints, monitors, the loop."""
