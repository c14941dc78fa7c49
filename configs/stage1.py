"""Stage 1: both towers end to end, on medium data.

    python -m mixer_jax.main --config=configs/stage1.py --workdir=runs/stage1

The reference: ResNet-50 and BERT-base at 224 pixels, from random weights
unless `model.image.pretrained` or `model.text.pretrained` is set. Needs
`data/medium/table.csv`; if that is missing, the demonstration's emoji without
skin tones are drawn there. Meant for accelerators, over all of which the batch
is split.

    python -m mixer_jax.main --config=configs/stage1.py:runlocal \
        --workdir=runs/local/stage1

A minute on a laptop's CPU: pretrained EfficientNet-Lite0 and MiniLM at 64
pixels, a dozen steps. The loss starts at about 22 and begins to fall.
"""

from ml_collections import ConfigDict

from mixer_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.reference("stage1", arg)
    config.steps = 40_000
    config.data.table = "data/medium/table.csv"
    config.data.source = "emoji-medium"
    config.head.name = "exact"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.parts = (("text_encoder", 0.1),)
    return common.shrink(config, arg)
