import pytest
from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training import curriculum
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import structure


def test_compatible_types_are_accepted():
    structure.check(config_lib.defaults())
    config = config_lib.defaults()
    config.watchdog = 0
    with config.ignore_type():
        config.sharding = [("text_encoder", "fsdp")]
    structure.check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stepps", 5, r"no key 'stepps'. Similar keys: steps"),
        ("model.imag", ConfigDict({"name": "vit"}), "no key 'model.imag.name'"),
        ("head", None, "lacks the key 'head.active'"),
        ("steps", None, "steps is None; it must be a whole number"),
        ("steps", "100", "steps is '100'; it must be a whole number"),
        ("steps", True, "steps is True; it must be a whole number"),
        ("steps", 2.5, "steps is 2.5; it must be a whole number"),
        ("head.scale", "1", "head.scale is '1'; it must be a number"),
        ("head.importance", 1, "head.importance is 1; it must be true or"),
        ("data.table", None, "data.table is None; it must be text"),
        ("sharding", "x", "sharding is 'x'; it must be a tuple"),
    ],
)
def test_unknown_keys_and_wrong_types_raise_an_error(
    tmp_path, key, value, message
):
    config = config_lib.defaults()
    *sections, last = key.split(".")
    with config.ignore_type():
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    with pytest.raises(UserError, match=message):
        list(curriculum.stages(config, tmp_path))
    stages = config_lib.curriculum(one=config_lib.defaults(), two=config)
    with pytest.raises(UserError, match=f"Stage two: .*{message}"):
        list(curriculum.stages(stages, tmp_path))


def test_empty_config_raises_an_error(tmp_path):
    with pytest.raises(UserError, match="lacks the key 'batch_size'"):
        list(curriculum.stages(ConfigDict(), tmp_path))


def test_keys_outside_the_stages_raise_an_error(tmp_path):
    config = config_lib.curriculum(one=config_lib.defaults())
    config.seed = 3
    with pytest.raises(UserError, match=r"'seed'; .* as in one\.seed"):
        list(curriculum.stages(config, tmp_path))
