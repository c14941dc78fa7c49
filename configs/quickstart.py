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
    config.batch_size = 192
    config.precision = "float32"  # what CPUs are fastest at
    config.log_every = 10
    config.data.table = f"{DATA}/{size}.csv"
    config.data.source = f"emoji-{size}"
    config.data.image_size = 96
    config.data.text_length = 16
    config.data.augment = "mirrored"
    config.model.image.name = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.model.text.name = "minilm"
    config.model.text.dropout = 0.0
    config.model.slots = 256
    config.model.memory_norm = "slots"
    config.head.scale = 16.0
    config.head.margin_size = 0.2
    config.proxies.init = "imprint"
    config.proxies.learning_rate = 1.0
    # The first half of the image encoder stays as it is: it is most of the
    # cost, and what it sees is the same everywhere.
    config.optimizer.parts = (
        ("image_encoder/(stem|block[0-7]/)", 0.0),
        ("image_encoder", 0.3),
        ("text_encoder", 0.0),
    )
    config.checkpoint.every = 50
    config.monitors.every = 20
    config.monitors.plateau_window = 50
    config.evaluate.table = f"{DATA}/medium.csv"
    return config


def get_config() -> ConfigDict:
    stage1 = stage("medium")
    stage1.steps = 120
    stage1.model.image.pretrained = "efficientnet-lite0"
    stage1.model.text.pretrained = "minilm"

    stage2 = stage("large")
    stage2.steps = 40
    stage2.head.name = "knn"
    stage2.head.refresh = 20
    stage2.optimizer.parts = (("image_encoder|text_encoder", 0.0),)

    stage3 = stage("medium")
    stage3.steps = 60
    stage3.head.name = "knn"
    stage3.head.refresh = 20
    stage3.optimizer.learning_rate = 3e-4
    return config_lib.curriculum(stage1=stage1, stage2=stage2, stage3=stage3)
