"""Continues training a model, on a day's categories.

    python -m mixer_jax.main --config=configs/daily.py:runs/last \
        --config.data.table=mydata/found.csv --workdir=runs/next

`launch/daily.sh` runs it. The model and its settings are those of the last
stage of the given run. Proxies of categories that still exist are kept; those
of new categories start as their mean embeddings. A bundle of a zero-shot model
cannot be trained, so training begins as in configs/own_data.py.
"""

from ml_collections import ConfigDict

from mixer_jax.configs import own_data
from mixer_jax.models import zero_shot
from mixer_jax.retrieval import bundle, runs
from mixer_jax.runtime.errors import UserError


def get_config(last: str) -> ConfigDict:
    folder = runs.find_models(last)[-1].workdir
    config = runs.read_config(folder)
    if config.model.fusion in zero_shot.NAMES:
        config = own_data.get_config()
    elif bundle.is_bundle(folder):
        raise UserError(
            f"{last} is a bundle, whose training cannot be continued; name "
            "the workdir that it was exported from."
        )
    else:
        config.init_from = str(folder)
    config.name = "daily"
    config.init_command = ""
    config.proxies.init = "imprint"
    config.data.source = ""
    config.data.prepared = ""
    config.data.features = ""
    config.data.max_skipped = 1.0  # many samples of a click log have no match
    config.evaluate.table = ""
    return config
