"""Settings shared by the reference stages, and a version for laptops.

Your own config can start from these settings:

    from mixer_jax.configs import common

    def get_config(arg: str = ""):
        config = common.reference("mine", arg)
        config.data.table = "mine/table.csv"
        return config
"""

from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config.defaults import defaults

RUNLOCAL = "runlocal"  # selects the version of a stage for laptops


def reference(name: str, arg: str, *, after: str = "") -> ConfigDict:
    """Returns the settings of all reference stages: ResNet-50 and BERT-base.

    Args:
      name: the name of the stage, its file and its workdir.
      arg: "" or `RUNLOCAL`, as in `--config=configs/stage1.py:runlocal`.
      after: the previous stage, whose parameters initialize this one.

    Raises:
      UserError: if `arg` is anything else.
    """
    if arg not in ("", RUNLOCAL):
        raise UserError(f"configs/{name}.py takes :{RUNLOCAL}, not :{arg}.")
    config = defaults()
    config.name = name
    config.batch_size = 1024
    config.model.image.name = "resnet50"
    config.model.text.name = "bert-base"
    config.head.products = config.head.wire = "bfloat16"
    config.checkpoint.every = 1000
    if after:
        suffix = f":{arg}" if arg else ""
        config.init_from = f"runs/{'local/' if arg else ''}{after}"
        config.init_command = (
            f"python -m mixer_jax.main --config=configs/{after}.py{suffix} "
            f"--workdir={config.init_from}"
        )
    return config


def large(config: ConfigDict) -> None:
    """Applies the settings shared by the stages on the large data."""
    config.steps = 20_000
    config.data.table = "data/large/table.csv"
    config.data.source = "emoji-large"
    config.head.graph_products = "bfloat16"
    config.head.name = "knn"
    config.head.active = 0.5
    config.proxies.init = "imprint"


def shrink(config: ConfigDict, arg: str) -> ConfigDict:
    """Returns the config, scaled down for laptops if `arg` is `RUNLOCAL`."""
    if arg != RUNLOCAL:
        return config
    config.steps = 12
    config.batch_size = 32
    config.log_every = 2
    table = "large" if config.init_from else "medium"
    config.data.table = f"runs/local/data/{table}.csv"
    config.data.image_size = 64
    config.data.text_length = 16
    config.model.dim = 64
    config.model.hidden = 128
    config.model.slots = 16
    config.model.image.name = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.model.text.name = "minilm"
    if config.init_from:
        config.head.active = 0.1
        config.head.refresh = 6
    else:
        config.model.image.pretrained = "efficientnet-lite0"
        config.model.text.pretrained = "minilm"
    config.checkpoint.every = 6
    config.monitors.every = 4
    return config
