"""Writers for the model formats of `mixer_jax.export`."""
