"""Stage 2: encoders frozen, the proxies of the large data.

    python -m mixer_jax.main --config=configs/stage2.py --workdir=runs/stage2

Starts from `runs/stage1` (see configs/stage1.py). The proxies start as the
mean embeddings of their categories; the knn head compares with the half of
them that lies near the batch; of millions, a hundredth is enough. Expects
`data/large/table.csv`; where it is missing, the demonstration's emoji with skin
tones are drawn there.

    python -m mixer_jax.main --config=configs/stage2.py:runlocal \
        --workdir=runs/local/stage2

Two minutes on a laptop's CPU, after stage 1's :runlocal; most of them embed
the large data once. The loss falls from about 30 to 17. The monitor of the
active set warns: after a dozen steps of stage 1 the space still moves faster
than the class graph is rebuilt.
"""

from ml_collections import ConfigDict

from mixer_jax.errors import UserError
from mixer_jax.training.config import defaults


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise UserError(f"configs/stage2.py takes :runlocal, not :{arg}.")
    config = defaults()
    config.name = "stage2"
    config.init_from = "runs/stage1"
    config.init_command = (
        "python -m mixer_jax.main --config=configs/stage1.py "
        "--workdir=runs/stage1"
    )
    config.steps = 20_000
    config.batch_size = 1024
    config.data.table = "data/large/table.csv"
    config.data.source = "emoji-large"
    config.model.image.name = "resnet50"
    config.model.image.batch_norm = "frozen"
    config.model.text.name = "bert-base"
    config.head.products = config.head.wire = "bfloat16"
    config.head.graph_products = "bfloat16"
    config.head.name = "knn"
    config.head.active = 0.5
    config.proxies.init = "imprint"
    config.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    config.checkpoint.every = 1000
    if arg == "runlocal":
        config.init_from = "runs/local/stage1"
        config.init_command = (
            "python -m mixer_jax.main --config=configs/stage1.py:runlocal "
            "--workdir=runs/local/stage1"
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
        config.model.text.name = "minilm"
        config.head.active = 0.1
        config.head.refresh = 6
        config.checkpoint.every = 6
        config.monitors.every = 4
    return config
