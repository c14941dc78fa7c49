"""The package's public functions and import cost."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mixer_jax
from mixer_jax import api
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import curriculum
from tests import shop


def test_import_loads_no_heavy_library():
    program = (
        "import sys, mixer_jax; "
        "heavy = {'jax', 'numpy', 'flax', 'pandas', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert {'load', 'train', 'find_categories'} <= set(dir(mixer_jax))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_modules_do_not_shadow_public_functions():
    program = """
import importlib, pkgutil, mixer_jax
from absl import flags
for module in pkgutil.walk_packages(mixer_jax.__path__, "mixer_jax."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name == "apache_beam", error  # an optional package
    for flag in list(flags.FLAGS):  # Several commands define --config.
        delattr(flags.FLAGS, flag)
for name in mixer_jax.__all__:
    assert callable(getattr(mixer_jax, name)), name
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mixer_jax.nothing  # noqa: B018


def test_training_returns_the_model(color_run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        curriculum, "run", lambda *given: asked.append(given[:2])
    )
    config = api.arguments.load_config("configs/stage1.py:runlocal")
    model = mixer_jax.train("configs/stage1.py:runlocal", color_run)
    assert asked[0][0].to_dict() == config.to_dict()
    assert asked[0][1] == color_run
    assert model.dim == 3
    with pytest.raises(
        mixer_jax.UserError, match=r"no config file nowhere\.py"
    ):
        mixer_jax.train("nowhere.py", color_run)


def test_frames_and_files_give_the_same_categories(tmp_path, monkeypatch):
    shop.build(tmp_path, with_truth=False)
    pixels, words = shop.image_features, shop.text_features
    monkeypatch.setattr(api.features, "image_features", pixels)
    monkeypatch.setattr(api.features, "text_features", words)
    paths = [
        tmp_path / "log" / f"{n}.csv" for n in ("queries", "items", "clicks")
    ]
    found = mixer_jax.find_categories(*paths)
    assert list(found) == [
        "sample_id",
        "role",
        "image",
        "text",
        "group",
        "category_id",
    ]
    monkeypatch.chdir(tmp_path / "log")
    frames = [pd.read_csv(path, keep_default_na=False) for path in paths]
    pd.testing.assert_frame_equal(
        mixer_jax.find_categories(*frames, cache=tmp_path / "cache"), found
    )
    # The command finds the same categories but numbers them differently.
    table = pd.read_csv(tmp_path / "found.csv").set_index("sample_id")
    categories = found.set_index("sample_id").category_id
    assert 2 * (categories != "").sum() == len(table)  # in both directions
    pairs = {
        (category, table.category_id[name])
        for name, category in categories.items()
        if category
    }
    assert len(pairs) == len(set(categories) - {""})
    assert len({name for _, name in pairs}) == len(pairs)
    small = mixer_jax.find_categories(*paths, max_size=2)
    sizes = small.category_id[small.category_id != ""].value_counts()
    assert set(sizes) == {2}


def test_invalid_frames_and_settings_raise_an_error(tmp_path):
    queries = pd.DataFrame({"query_id": ["q"], "image": ["a.png"]})
    items = pd.DataFrame({"item_id": ["d"], "image": [""], "text": ["red"]})
    clicks = pd.DataFrame(
        {"query_id": ["q"], "item_id": ["d"], "exposures": [2], "clicks": [1]}
    )

    def refused(message, *tables, **settings):
        with pytest.raises(mixer_jax.UserError, match=message):
            mixer_jax.find_categories(*tables, **settings)

    unknown = "no setting 'tresh'; did you mean 'threshold'"
    refused(unknown, queries, items, clicks, tresh=1)
    refused(
        "The table items has no column text",
        queries,
        items.drop(columns="text"),
        clicks,
    )
    refused("The table clicks has no rows", queries, items, clicks[:0])
    refused(
        "clicks, row 0, column .item_id.: 'x' is not in items",
        queries,
        items,
        clicks.assign(item_id="x"),
    )
    refused(
        "query_id of the table queries contains floats",
        queries.assign(query_id=[np.nan]),
        items,
        clicks,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a positive integer"),
        ({"image_size": "128"}, "image_size is '128'"),
        ({"max_skipped": 7}, "max_skipped is 7; it must be from 0 to 1"),
        ({"max_skipped": "1"}, "max_skipped is '1'; it must be from 0 to 1"),
        ({"max_skipped": float("nan")}, "max_skipped is nan"),
    ],
)
def test_numbers_are_checked_before_the_tables_are_read(changes, message):
    with pytest.raises(UserError, match=message):
        mixer_jax.find_categories("no.csv", "no.csv", "no.csv", **changes)


def test_empty_workdir_is_an_error():
    with pytest.raises(UserError, match="workdir is empty"):
        mixer_jax.train("stage1:runlocal", "")
