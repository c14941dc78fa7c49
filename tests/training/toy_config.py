"""A curriculum of three toy stages; the argument is the table."""

from ml_collections import ConfigDict

from mixer_jax.training.config import defaults as config_lib


def get_config(table: str = "") -> ConfigDict:
    def stage(**changes):
        config = config_lib.defaults()
        config.steps = 12
        config.batch_size = 16
        config.precision = "float32"
        config.log_every = 1
        config.data.table = table
        config.data.image_size = 16
        config.data.text_length = 8
        config.data.augment = "light"
        config.model.dim = 16
        config.model.slots = 8
        config.checkpoint.every = 4
        config.monitors.every = 1000
        config.head.name = "knn"
        config.head.active = 1.0
        config.head.neighbors = 4
        config.head.refresh = 3
        config.proxies.learning_rate = 0.1
        config.update(changes)
        return config

    frozen = stage(seed=1)
    frozen.model.image.batch_norm = "frozen"
    frozen.data.cached = True
    frozen.data.augment = "none"
    frozen.proxies.init = "imprint"
    frozen.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    return config_lib.curriculum(
        stage1=stage(), stage2=frozen, stage3=stage(seed=2)
    )
