"""Writers of models in the formats that `mixer_jax.export` offers."""
