"""The config that continues a run."""

import pytest

from mixer_jax.models import zero_shot
from mixer_jax.retrieval import bundle
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import workdir
from mixer_jax.training.config import arguments
from mixer_jax.training.config import defaults as config_lib


def load(folder):
    return arguments.load_config(f"daily:{folder}")


def test_a_run_is_continued_with_its_own_settings(color_run):
    config = load(color_run)
    assert config.init_from == str(color_run / "stage2")
    assert config.data.max_skipped == 1.0
    assert config.proxies.init == "imprint"
    trained = workdir.read_config(color_run / "stage2")
    for key in ("steps", "model.dim", "data.image_size", "batch_size"):
        values = [config_lib.flatten(one)[key] for one in (config, trained)]
        assert values[0] == values[1], key
    known = config_lib.flatten(config_lib.defaults())
    assert set(config_lib.flatten(config)) == set(known)


def test_a_zero_shot_model_is_followed_by_training_from_the_start(
    color_run, trained, tmp_path
):
    trained.config.model.fusion = zero_shot.MEAN_PATCHES
    bundle.write(trained, tmp_path / "bundle")
    config = load(tmp_path / "bundle")
    assert config.init_from == ""
    assert config.model.image.pretrained == "efficientnet-lite0"
    config_lib.check_values(config, num_devices=8)


def test_a_bundle_of_a_trained_model_cannot_be_continued(trained, tmp_path):
    bundle.write(trained, tmp_path / "bundle")
    with pytest.raises(UserError, match="is a bundle, whose training cannot"):
        load(tmp_path / "bundle")
    with pytest.raises(UserError, match="needs an argument"):
        arguments.load_config("daily")
