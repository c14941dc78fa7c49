"""Stage 3: everything fine-tuned together, on the large data.

    python -m mixer_jax.main --config=configs/stage3.py --workdir=runs/stage3

Starts from `runs/stage2` (see configs/stage2.py): its parameters, and its
proxies row by row. Rates are small, the encoders' smaller still.

    python -m mixer_jax.main --config=configs/stage3.py:runlocal \
        --workdir=runs/local/stage3

A minute on a laptop's CPU, after stage 2's :runlocal. The loss is about 15
from its first step on; a dozen steps do not move it.
"""

from ml_collections import ConfigDict

from mixer_jax.errors import UserError
from mixer_jax.training.config import defaults


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise UserError(f"configs/stage3.py takes :runlocal, not :{arg}.")
    config = defaults()
    config.name = "stage3"
    config.init_from = "runs/stage2"
    config.init_command = (
        "python -m mixer_jax.main --config=configs/stage2.py "
        "--workdir=runs/stage2"
    )
    config.steps = 20_000
    config.batch_size = 1024
    config.data.table = "data/large/table.csv"
    config.data.source = "emoji-large"
    config.model.image.name = "resnet50"
    config.model.text.name = "bert-base"
    config.head.products = config.head.wire = "bfloat16"
    config.head.graph_products = "bfloat16"
    config.head.name = "knn"
    config.head.active = 0.5
    config.proxies.init = "imprint"
    config.proxies.learning_rate = 0.02
    config.optimizer.learning_rate = 2e-4
    config.optimizer.parts = (("image_encoder|text_encoder", 0.1),)
    config.checkpoint.every = 1000
    if arg == "runlocal":
        config.init_from = "runs/local/stage2"
        config.init_command = (
            "python -m mixer_jax.main --config=configs/stage2.py:runlocal "
            "--workdir=runs/local/stage2"
        )
        config.steps = 12
        config.batch_size = 32
        config.log_every = 2
        config.data.table = "runs/local/data/large.csv"
        config.data.image_size = 64
        config.data.text_length = 16
        config.model.dim = 64
        config.model.hidden = 128
        config.model.slots = 16
        config.model.image.name = "efficientnet-lite0"
        config.model.image.batch_norm = "frozen"
        config.model.text.name = "minilm"
        config.head.active = 0.1
        config.head.refresh = 6
        config.checkpoint.every = 6
        config.monitors.every = 4
    return config
