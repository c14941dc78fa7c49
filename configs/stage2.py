"""Stage 2: trains on the large data, with frozen encoders and new proxies.

    python -m mixer_jax.main --config=configs/stage2.py --workdir=runs/stage2

The stage starts from `runs/stage1` (see configs/stage1.py). Proxies are
initialized with the mean embeddings of their categories. The knn head compares
a batch with the nearest half of the proxies; with millions of categories, 1% is
enough. The stage needs `data/large/table.csv`; if that is missing, the
demonstration's emoji with skin tones are drawn there.

    python -m mixer_jax.main --config=configs/stage2.py:runlocal \
        --workdir=runs/local/stage2

This takes two minutes on a laptop's CPU after the :runlocal version of stage 1,
mostly to embed the large data once. The loss falls from about 30 to 17. The
active-set monitor warns, because after only a dozen steps of stage 1 the
embeddings still move faster than the class graph is rebuilt.
"""

from ml_collections import ConfigDict

from mixer_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.reference("stage2", arg, after="stage1")
    common.large(config)
    config.model.image.batch_norm = "frozen"
    config.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    return common.shrink(config, arg)
