"""The quickstart: three stages of training on emoji, in minutes on two cores.

    python -m mixer_jax.main --config=configs/quickstart.py \
        --workdir=runs/quickstart

`launch/quickstart.sh` runs it after drawing the emoji and finding their
categories in a simulated click log. Queries are one vendor's drawings, and
documents are the other vendor's drawings with their names, in both directions.
The encoders, EfficientNet-Lite0 and MiniLM, are pretrained. MiniLM stays frozen
and encodes each text once. Stage 2 trains on cached encoder features (440 MB).
Expect losses of about 2, 2 and 3 at the ends of the stages. `:smoke` runs a few
steps on the few emoji that `launch/quickstart.sh --smoke` draws.
"""

from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib


def stage(run: str, table: str) -> ConfigDict:
    """Returns the shared settings, for a run's folder and a table in it."""
    config = config_lib.defaults()
    config.batch_size = 128
    config.precision = "float32"  # fastest on CPUs
    config.log_every = 10
    config.data.table = f"{run}/{table}"
    config.data.image_size = 112
    config.data.text_length = 16
    config.data.augment = "mirrored"
    config.data.cached_text = True
    config.model.image.name = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.model.image.chunk = 8
    config.model.image.hypercolumns = True
    config.model.text.name = "minilm"
    config.model.text.dropout = 0.0
    config.model.drop_image = 0.3
    config.model.drop_text = 0.3
    config.model.slots = 256
    config.model.memory_norm = "slots"
    config.head.scale = 16.0
    config.head.margin_size = 0.2
    config.head.active = 0.3
    config.head.neighbors = 64
    config.proxies.init = "imprint"
    config.proxies.imprint_samples = 1
    config.proxies.learning_rate = 1.0
    # Freeze the parameters whose training costs most and helps least: the first
    # half of the image encoder, the rest of it except dense kernels, and the
    # text encoder.
    config.optimizer.parts = (
        ("image_encoder/(stem|block[0-7]/|.*(depthwise|scale|bias))", 0.0),
        ("image_encoder", 0.5),
        ("text_encoder", 0.0),
    )
    config.checkpoint.every = 50
    config.monitors.every = 20
    config.monitors.plateau_window = 100
    config.evaluate.table = f"{run}/data/medium.csv"
    return config


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "smoke"):
        raise UserError(f"configs/quickstart.py takes :smoke, not :{arg}.")
    run = f"runs/{arg or 'quickstart'}"

    stage1 = stage(run, "found.csv")
    stage1.steps = 100
    stage1.model.init = "whitened"
    stage1.model.image.pretrained = "efficientnet-lite0"
    stage1.model.text.pretrained = "minilm"

    stage2 = stage(run, "data/large.csv")
    stage2.seed = 1  # a different order of the samples
    stage2.steps = 300
    stage2.batch_size = 256
    stage2.data.cached = True
    stage2.data.augment = "none"
    stage2.head.name = "knn"
    stage2.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    # Regularize: overfitted towers map every sample near a training category.
    stage2.optimizer.weight_decay = 1.0
    stage2.checkpoint.every = 150

    stage3 = stage(run, "data/large.csv")
    stage3.seed = 2
    stage3.steps = 40
    stage3.head.name = "knn"
    stage3.optimizer.learning_rate = 3e-4
    stage3.proxies.learning_rate = 0.5

    for config in (stage2, stage3):
        config.head.active = 0.6
        config.head.neighbors = 16
        config.head.refresh = 20
        config.model.drop_image = 0.5
        config.model.drop_text = 0.5

    if arg == "smoke":
        for config in (stage1, stage2, stage3):
            config.steps = 4
            config.batch_size = 16
            config.model.image.chunk = 0  # compiles faster
            config.data.image_size = 64
            config.data.max_skipped = 1.0  # many samples have no match
            config.head.active = 1.0
            config.head.refresh = 2
            config.log_every = 1
            config.monitors.every = 2
            config.evaluate.batch_size = 32
            config.evaluate.baseline_steps = 10
    return config_lib.curriculum(stage1=stage1, stage2=stage2, stage3=stage3)
