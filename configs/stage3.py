"""Stage 3: fine-tunes all parameters together, on the large data.

    python -m mixer_jax.main --config=configs/stage3.py --workdir=runs/stage3

The stage starts from the parameters and proxies of `runs/stage2` (see
configs/stage2.py). The learning rates are small, and those of the encoders
smaller still.

    python -m mixer_jax.main --config=configs/stage3.py:runlocal \
        --workdir=runs/local/stage3

This takes a minute on a laptop's CPU after the :runlocal version of stage 2.
The loss is about 15 from the first step on; a dozen steps do not change it.
"""

from ml_collections import ConfigDict

from mixer_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.reference("stage3", arg, after="stage2")
    common.large(config)
    config.proxies.learning_rate = 0.02
    config.optimizer.learning_rate = 2e-4
    config.optimizer.parts = (("image_encoder|text_encoder", 0.1),)
    return common.shrink(config, arg)
