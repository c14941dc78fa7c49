"""Stage 1: trains both towers end to end, on the medium data.

    python -m mixer_jax.main --config=configs/stage1.py --workdir=runs/stage1

The reference uses ResNet-50 and BERT-base at 224 pixels, from random weights
unless `model.image.pretrained` or `model.text.pretrained` is set. It needs
`data/medium/table.csv`; if that is missing, the demonstration's emoji without
skin tones are drawn there. It is meant for accelerators, and splits the batch
over all of them.

    python -m mixer_jax.main --config=configs/stage1.py:runlocal \
        --workdir=runs/local/stage1

This takes a minute on a laptop's CPU: a dozen steps with pretrained
EfficientNet-Lite0 and MiniLM at 64 pixels. The loss starts at about 22 and
begins to fall.
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
