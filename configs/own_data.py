"""One stage of training on your own sample table, from pretrained encoders.

    python -m mixer_jax.main --config=configs/own_data.py \
        --config.data.table=mydata/table.csv --workdir=runs/mydata

Training EfficientNet-Lite0 and MiniLM at 128 pixels takes minutes on a laptop's
CPU for a few thousand images. With more data, raise `steps` so that every
sample is seen at least ten times (steps = 10 * samples / batch_size), and
unfreeze more of the encoders in `optimizer.parts`.
"""

from ml_collections import ConfigDict

from mixer_jax.training.config.defaults import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.steps = 200
    config.batch_size = 64
    config.precision = "float32"  # fastest on CPUs; elsewhere, use "bfloat16"
    config.data.image_size = 128
    config.model.image.name = "efficientnet-lite0"
    config.model.image.pretrained = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.model.image.hypercolumns = True
    config.model.init = "whitened"
    config.model.text.name = "minilm"
    config.model.text.pretrained = "minilm"
    config.model.slots = 256
    config.model.memory_norm = "slots"
    config.model.drop_image = 0.3
    config.model.drop_text = 0.3
    config.head.scale = 16.0
    config.head.margin_size = 0.2
    config.proxies.init = "imprint"
    config.proxies.imprint_samples = 4  # enough for a mean
    config.proxies.learning_rate = 1.0
    config.optimizer.parts = (
        ("image_encoder/(stem|block[0-7]/)", 0.0),
        ("image_encoder", 0.3),
        ("text_encoder", 0.0),
    )
    return config
