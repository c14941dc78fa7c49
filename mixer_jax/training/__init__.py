"""Training: state, step, loop, curriculum, checkpoints and monitors."""
