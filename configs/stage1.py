"""Stage 1: both towers end to end, on the medium data.

    python -m mixer_jax.main --config=configs/stage1.py --workdir=runs/stage1

The reference: ResNet-50 and BERT-base at 224 pixels, from random weights
unless `model.image.pretrained` or `model.text.pretrained` say otherwise.
Expects `data/medium/table.csv`; where it is missing, the demonstration's
emoji without skin tones are drawn there. It wants accelerators: the batch is
split over all of them.

    python -m mixer_jax.main --config=configs/stage1.py:runlocal \
        --workdir=runs/local/stage1

A minute on a laptop's CPU: pretrained EfficientNet-Lite0 and MiniLM at 64
pixels, a dozen steps. The loss starts at about 22 and begins to fall.
"""

from ml_collections import ConfigDict

from mixer_jax.errors import UserError
from mixer_jax.training.config import defaults


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise UserError(f"configs/stage1.py takes :runlocal, not :{arg}.")
    config = defaults()
    config.name = "stage1"
    config.steps = 40_000
    config.batch_size = 1024
    config.data.table = "data/medium/table.csv"
    config.data.source = "emoji-medium"
    config.model.image.name = "resnet50"
    config.model.text.name = "bert-base"
    config.head.products = config.head.wire = "bfloat16"
    config.head.name = "exact"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.parts = (("text_encoder", 0.1),)
    config.checkpoint.every = 1000
    if arg == "runlocal":
        config.steps = 12
        config.batch_size = 32
        config.log_every = 2
        config.data.table = "runs/local/data/medium.csv"
        config.data.image_size = 64
        config.data.text_length = 16
        config.model.dim = 64
        config.model.hidden = 128
        config.model.slots = 16
        config.model.image.name = "efficientnet-lite0"
        config.model.image.pretrained = "efficientnet-lite0"
        config.model.image.batch_norm = "frozen"
        config.model.text.name = "minilm"
        config.model.text.pretrained = "minilm"
        config.checkpoint.every = 6
        config.monitors.every = 4
    return config
