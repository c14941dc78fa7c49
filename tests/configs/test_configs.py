"""The configs load, are valid and fit together."""

import importlib.util
import itertools
import pathlib
import re

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
STAGES = ("stage1", "stage2", "stage3")
SINGLE = ("own_data", "icons")


def module(name):
    path = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def stages():
    for name in STAGES:
        for arg in ("", "runlocal"):
            yield pytest.param(module(name).get_config(arg), id=f"{name}{arg}")
    for name in SINGLE:
        yield pytest.param(module(name).get_config(), id=name)
    for name, config in config_lib.stages(
        module("quickstart").get_config()
    ).items():
        yield pytest.param(config, id=f"quickstart-{name}")


@pytest.mark.parametrize("config", list(stages()))
def test_config_is_valid_with_default_keys_only(config):
    config_lib.check_values(config, num_devices=8)
    known = config_lib.flatten(config_lib.defaults())
    assert set(config_lib.flatten(config)) == set(known)


@pytest.mark.parametrize("name", STAGES)
def test_unknown_argument_is_rejected(name):
    with pytest.raises(UserError, match=r"stage.*:big"):
        module(name).get_config("big")


@pytest.mark.parametrize("name", [*STAGES, *SINGLE, "quickstart"])
def test_docstring_contains_the_command(name):
    text = module(name).__doc__
    assert f"python -m mixer_jax.main --config=configs/{name}.py" in text


@pytest.mark.parametrize("arg", ["", "runlocal"])
def test_init_command_trains_the_previous_stage(arg):
    configs = {name: module(name).get_config(arg) for name in STAGES}
    for before, name in itertools.pairwise(STAGES):
        command = configs[name].init_command
        suffix = f":{arg}" if arg else ""
        assert f"--config=configs/{before}.py{suffix} " in command
        workdir = re.search(r"--workdir=(\S+)", command)[1]
        assert workdir == configs[name].init_from
        assert workdir in " ".join(module(before).__doc__.split())
        for key in ("model.dim", "model.image.name", "model.text.name"):
            flat = [config_lib.flatten(configs[n])[key] for n in (before, name)]
            assert flat[0] == flat[1], key
