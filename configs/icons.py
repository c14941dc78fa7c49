"""A model of drawings in general, trained on icons of many vendors.

    python -m mixer_jax.demo.icons --unseen-vendors --size=96 --limit=6000 \
        --out=icons
    python -m mixer_jax.main --config=configs/icons.py --workdir=runs/icons

It finds the same thing in drawings by vendors, and in styles, that are not in
the training data. The recipe is that of configs/own_data.py. Training takes
some ten minutes on two busy cores; with more time, raise `steps`.
"""

from ml_collections import ConfigDict

from mixer_jax.configs import own_data


def get_config() -> ConfigDict:
    config = own_data.get_config()
    config.name = "icons"
    config.data.table = "icons/icons_unseen.csv"
    config.data.image_size = 96  # that of the drawings
    return config
