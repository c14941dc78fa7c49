"""The quickstart: three stages in a row, on emoji, in minutes on two cores.

    python -m mixer_jax.main --config=configs/quickstart.py \
        --workdir=runs/quickstart

`launch/quickstart.sh` runs it after it has drawn the emoji and found their
categories from the simulated click log; by itself it draws what is missing
and trains on the true categories. Query images are one vendor's drawings,
documents the other's with the name, in both directions. The encoders,
EfficientNet-Lite0 and MiniLM, come pretrained.
"""

from ml_collections import ConfigDict

from mixer_jax.training import config as config_lib

DATA = "runs/quickstart/data"


def stage(size: str) -> ConfigDict:
    """What the stages share; `size` is medium or large."""
    config = config_lib.defaults()
    config.batch_size = 128
    config.log_every = 10
    config.data.table = f"{DATA}/{size}.csv"
    config.data.source = f"emoji-{size}"
    config.data.image_size = 96
    config.data.text_length = 16
    config.model.image.name = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.model.text.name = "minilm"
    config.optimizer.parts = (("image_encoder|text_encoder", 0.1),)
    config.checkpoint.every = 50
    config.monitors.every = 20
    config.monitors.plateau_window = 50
    return config


def get_config() -> ConfigDict:
    stage1 = stage("medium")
    stage1.steps = 150
    stage1.model.image.pretrained = "efficientnet-lite0"
    stage1.model.text.pretrained = "minilm"

    stage2 = stage("large")
    stage2.steps = 50
    stage2.head.name = "knn"
    stage2.head.refresh = 25
    stage2.proxies.init = "imprint"
    stage2.optimizer.parts = (("image_encoder|text_encoder", 0.0),)

    stage3 = stage("large")
    stage3.steps = 100
    stage3.head.name = "knn"
    stage3.head.refresh = 25
    stage3.proxies.init = "imprint"
    stage3.proxies.learning_rate = 0.02
    stage3.optimizer.learning_rate = 2e-4
    return config_lib.curriculum(stage1=stage1, stage2=stage2, stage3=stage3)
