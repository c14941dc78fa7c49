"""Keys and values of a config, and errors for invalid ones."""

import json

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib


def test_json_round_trip_keeps_tuples_and_types():
    config = config_lib.defaults()
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert again == config
    assert again.optimizer.parts == config.optimizer.parts


def test_defaults_are_valid():
    config_lib.check_values(config_lib.defaults(), num_devices=8)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("learning_rate", "proxies.learning_rate"),
        ("dat.table", "data.table"),
    ],
)
def test_unknown_key_error_lists_similar_keys(key, near):
    with pytest.raises(UserError, match=f"no key '{key}'.*{near}"):
        config_lib.check_keys(config_lib.defaults(), [key])


def test_known_keys_pass():
    config_lib.check_keys(config_lib.defaults(), ["steps", "model.image.name"])


@pytest.mark.parametrize("key", ["data", "model.image"])
def test_sections_are_rejected_as_keys(key):
    with pytest.raises(UserError, match=rf"'{key}' is a section.*{key}\."):
        config_lib.check_keys(config_lib.defaults(), [key])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("precision", "float8", "float32, bfloat16"),
        ("head.name", "exakt", "exact, knn"),
        ("proxies.init", "zeros", "random, imprint"),
        ("steps", 0, "1 or more"),
        ("batch_size", 20, "multiple of 16"),
        ("monitors.on_failure", "die", "warn, raise"),
        ("data.sampler", "unifrom", "uniform, tempered, balanced"),
        ("data.temperature", 0.5, "1 .sampling by frequency. or more"),
        ("data.workers", -1, "0 or more"),
        ("data.max_pixels", 0, "1 or more"),
        ("data.augment", "string", "none, light, strong"),
        ("data.image_size", 0, "1 or more"),
        ("data.text_length", 0, "1 or more"),
        ("model.dim", -1, "1 or more"),
        ("model.hidden", 0, "1 or more"),
        ("model.slots", 0, "1 or more"),
        ("model.dropout", 1.0, "less than 1"),
        ("model.image.drop_path", 1.0, "less than 1"),
        ("model.text.dropout", -0.1, "at least 0"),
        ("seed", -1, "0 or more"),
        ("seed", 2**63, "below"),
        ("optimizer.learning_rate", -1e-3, "0 or more"),
        ("optimizer.weight_decay", -1e-3, "0 or more"),
        ("optimizer.warmup", 1.5, "from 0 to 1"),
        ("optimizer.clip_norm", 0.0, "above 0"),
        ("proxies.learning_rate", -1.0, "0 or more"),
        ("proxies.momentum", 1.0, "less than 1"),
        ("proxies.max_norm", -1.0, "0 or more"),
        ("proxies.imprint_samples", -1, "0 or more"),
        ("head.margin_power", -0.5, "0 or more"),
        ("evaluate.batch_size", 0, "1 or more"),
        ("monitors.plateau_window", 1, "2 or more"),
    ],
)
def test_invalid_values_are_named_with_valid_ones(key, value, message):
    config = config_lib.defaults()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"{key} is .*{message}"):
        config_lib.check_values(config, num_devices=8)


def test_sampling_and_augmentation_settings_are_checked():
    config = config_lib.defaults()
    config.data.sampler = "balanced"
    config.data.samples_per_category = 5
    with pytest.raises(UserError, match="half the batch, 64 samples"):
        config_lib.check_values(config, num_devices=8)
    config.data.samples_per_category = 8
    config.data.augment_changes = (("flipp", 0.5),)
    with pytest.raises(UserError, match="did you mean 'flip'"):
        config_lib.check_values(config, num_devices=8)
    config.data.augment_changes = (("flip", 0.5),)
    config_lib.check_values(config, num_devices=8)
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    config_lib.check_values(again, num_devices=8)


def test_features_in_a_bucket_are_rejected():
    config = config_lib.defaults()
    config.data.features = "gs://bucket/features"
    with pytest.raises(
        UserError, match=r"data.features must be stored on this machine"
    ):
        config_lib.check_values(config, num_devices=8)


def test_differences_ignore_keys_that_affect_no_parameter():
    old, new = config_lib.defaults(), config_lib.defaults()
    new.log_every = 7
    new.checkpoint.every = 3
    new.data.features = "there"
    new.evaluate.split = "other"
    assert config_lib.differences(old, new) == []
    new.head.margin_size = 0.5
    new.optimizer.parts = (("fusion", 2.0),)
    assert [
        line.split(":")[0] for line in config_lib.differences(old, new)
    ] == [
        "head.margin_size",
        "optimizer.parts",
    ]


def test_curriculum_keeps_the_given_order():
    config = config_lib.curriculum(
        second=config_lib.defaults(), first=config_lib.defaults()
    )
    assert list(config_lib.stages(config)) == ["second", "first"]
    single = config_lib.defaults()
    assert config_lib.stages(single) == {"stage1": single}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sharding", ("(((",)),
        ("sharding", ("ab",)),
        ("sharding", (("encoder", 2),)),
        ("optimizer.parts", ("encoder", 0.1)),
        ("optimizer.parts", (("encoder", "0.1"),)),
        ("data.augment_changes", (("flip",),)),
    ],
)
def test_malformed_pairs_raise_an_error(key, value):
    config = config_lib.defaults()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"{key} contains .*--config\.{key}="):
        config_lib.check_values(config, 1)


def test_nan_raises_an_error():
    config = config_lib.defaults()
    config.optimizer.learning_rate = float("nan")
    with pytest.raises(UserError, match=r"optimizer\.learning_rate"):
        config_lib.check_values(config, 1)


@pytest.mark.parametrize("names", [("stage9",), ()])
def test_curriculum_with_unknown_stages_raises_an_error(names):
    config = config_lib.curriculum(stage1=config_lib.defaults())
    config.curriculum = names
    with pytest.raises(UserError, match="has the stages stage1"):
        config_lib.stages(config)


def test_negative_multiples_raise_an_error():
    config = config_lib.defaults()
    config.optimizer.parts = (("encoder", -0.1),)
    with pytest.raises(
        UserError, match=r"optimizer.parts contains .*0 or more"
    ):
        config_lib.check_values(config, num_devices=8)
