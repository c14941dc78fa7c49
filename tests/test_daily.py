"""A shop that learns from clicks: one round with simulated shoppers."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mixer_jax import categorize, compare, daily, index
from mixer_jax.data.tables import holdout, table
from mixer_jax.demo import shoppers
from mixer_jax.models import factory
from mixer_jax.retrieval import model as model_lib
from mixer_jax.service import server
from mixer_jax.service.batches import generations
from mixer_jax.service.http.recording import Recorder
from mixer_jax.service.http.settings import DEFAULTS
from mixer_jax.training import curriculum
from mixer_jax.training.checkpoint import workdir
from mixer_jax.training.config import arguments
from mixer_jax.training.config import defaults as config_lib
from tests.service.conftest import PIXELS
from tests.training import conftest as training

ROOT = pathlib.Path(__file__).parents[1]
CATEGORIES, COPIES, SIZE = 36, 2, 16
COMMANDS = {
    "index": index.main,
    "daily": daily.main,
    "categorize": categorize.main,
    "compare": compare.main,
}


def draw(folder):
    """Writes the queries and the catalog of a shop; returns their table."""
    folder.mkdir()
    rng, samples = np.random.default_rng(0), []
    looks = rng.integers(60, 196, (CATEGORIES, 4, 4, 3))
    for category, look in enumerate(looks):
        for role in (table.QUERY, table.DOCUMENT):
            for copy in range(COPIES):
                name = f"{role}-{category}-{copy}"
                pixels = look.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
                noise = rng.integers(-40, 41, pixels.shape)
                picture = Image.fromarray((pixels + noise).astype(np.uint8))
                picture.save(folder / f"{name}.png")
                text = f"thing {category}" if role == table.DOCUMENT else ""
                samples.append(
                    (name, role, f"{name}.png", text)
                    + (f"c{category:02d}", "", "train")
                )
    path = folder / "catalog.csv"
    table.write_table(pd.DataFrame(samples, columns=table.COLUMNS), path)
    return path


def train(flags):
    """Runs `mixer_jax.main` in this process."""
    given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    config = arguments.load_config(given.pop("config"))
    folder = given.pop("workdir")
    with config.unlocked():
        for key, value in given.items():
            key = key.removeprefix("config.")
            value = int(value) if value.isdigit() else value
            config.update_from_flattened_dict({key: value})
    curriculum.run(config, folder)


class Shop:
    """A shop's folder, and the running service of its index."""

    def __init__(self, folder, catalog, model):
        self.folder, self.catalog = folder, catalog
        self.events = folder.parent / "events"
        self.options = [
            f"--folder={folder}",
            f"--events={self.events}",
            f"--catalog={catalog}",
            f"--model={model}",
        ]

    def commands(self, day):
        """Returns the commands that `launch/daily.sh` would run next."""
        done = subprocess.run(
            ["launch/daily.sh", *self.options, f"--day={day}", "--dry-run"]
            + ["--", "--config.steps=6"],
            cwd=ROOT,
            env=os.environ | {"CDPATH": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = re.findall(r"^\+ .*-m mixer_jax\.(\S+) (.*)", done.stdout, re.M)
        return [(name, shlex.split(words)) for name, words in lines]

    def learn(self, day):
        """Runs the commands of a day."""
        todo = self.commands(day)
        while todo:
            name, words = todo.pop(0)
            if name == "main":
                train(words)
                continue
            assert COMMANDS[name](words) == 0, (name, words)
            if words[0] == "begin":
                if not self.has_clicks(day):
                    return
                # The rest depends on what this command wrote.
                todo = self.commands(day)[1:]

    def has_clicks(self, day):
        return (self.day(day) / "clicks.parquet").exists()

    def day(self, day):
        return self.folder / "days" / day

    def read(self, day, name):
        return json.loads((self.day(day) / name).read_text())

    def serving(self):
        """Returns the file of the generation that the index records."""
        return json.loads((self.folder / "index/index.json").read_text())


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A shop whose first model has random weights."""
    monkeypatch.setattr(factory, "make_model", training.make_model)
    monkeypatch.setattr(factory, "init_variables", training.init_variables)

    def image_features(name, paths, size):
        pixels = [Image.open(path).resize((4, 4)) for path in paths]
        return np.stack([np.ravel(one) for one in pixels]).astype(np.float32)

    def text_features(name, texts, length):
        words = np.random.default_rng(1).normal(size=(CATEGORIES, 8))
        return words[[int(t.split()[1]) for t in texts]].astype(np.float32)

    encoders = categorize.features
    monkeypatch.setattr(encoders, "image_features", image_features)
    monkeypatch.setattr(encoders, "text_features", text_features)
    catalog = draw(tmp_path / "catalog")
    first = tmp_path / "first"
    toy = ROOT / "tests/training/toy_config.py"
    stages = config_lib.stages(arguments.load_config(f"{toy}:{catalog}"))
    config = stages["stage1"].copy_and_resolve_references()
    config.head.active = 1.0
    config.steps = 12
    curriculum.run(config, first)
    return Shop(tmp_path / "shop", catalog, first)


def visit(client, recorder, catalog, seed):
    """Lets shoppers search and click; returns when all is on disk."""

    def post(path, body):
        answer = client.post(f"/{path}", content=body)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    # The first model finds little, so shoppers look at long pages.
    settings = shoppers.Shoppers(150, seed, page=72, bias=0.0, wrong=0.0)
    _, clicks = shoppers.visit(post, catalog, settings)
    written = threading.Event()
    recorder._submit(written.set)
    assert written.wait(60)
    return clicks


@pytest.mark.slow
def test_a_shop_learns_from_clicks_and_rolls_back(shop, capsys):
    place = shop.folder / "index"
    shop.events.mkdir()
    shop.learn("2026-01-01")
    assert "No events were recorded in" in capsys.readouterr().out
    assert not (shop.folder / "days").exists()

    recorder = Recorder(shop.events, 90)
    with generations.Generations(generations.opener(place), PIXELS) as made:
        app = server.make_app(made, DEFAULTS._replace(recorder=recorder))
        with TestClient(app) as client:

            def state():
                made.refresh()  # the service checks every two seconds
                return client.get("/readyz").json()

            served = [state()["fingerprint"]]
            for day in ("2026-01-01", "2026-01-02"):
                clicks = visit(client, recorder, shop.catalog, seed=len(served))
                assert clicks > 50
                shop.learn(day)
                _check_day(shop, day)
                served.append(state()["fingerprint"])
                model = model_lib.load(shop.day(day) / "model")
                switched = shop.read(day, "decision.json")["switched"]
                expected = model.fingerprint if switched else served[-2]
                assert served[-1] == expected
            assert " kept, " in capsys.readouterr().out
            _check_ids(shop, "2026-01-01", "2026-01-02")

            shop.learn("2026-01-03")
            assert "There are no new clicks in" in capsys.readouterr().out
            assert not shop.day("2026-01-03").exists()

            assert len(set(served)) == 3, "both days have switched"
            before = shop.serving()
            assert index.main(["roll-back", f"--index={place}"]) == 0
            assert shop.serving()["items"] == before["earlier"][0]
            assert state()["fingerprint"] == served[1]
            # The same day or one without clicks does not switch the index.
            shop.learn("2026-01-02")
            shop.learn("2026-01-03")
            assert state()["fingerprint"] == served[1]
            assert index.main(["roll-back", f"--index={place}"]) == 0
            assert state()["fingerprint"] == served[0]


def _check_day(shop, day):
    figures = shop.read(day, "comparison.json")
    assert figures["queries"] >= figures["categories"] >= 2
    assert figures["documents"] > figures["categories"]
    for name in ("map", "identical_at_1"):
        one = figures[name]
        assert 0 <= one["current"] <= 1
        assert one["low"] <= one["new"] - one["current"] <= one["high"]
    switched = shop.read(day, "decision.json")["switched"]
    assert switched == (figures["verdict"] in ("better", "not worse"))


def _check_ids(shop, first, second):
    """Checks that IDs are kept, and that held-out categories stay held out."""
    tables = [
        table.read_table(shop.day(day) / "found.csv").set_index("sample_id")
        for day in (first, second)
    ]
    both = tables[0].index.intersection(tables[1].index)
    ids = [found.loc[both, "category_id"] for found in tables]
    assert len(both) > CATEGORIES
    assert (ids[0] == ids[1]).mean() > 0.8
    for day, found in zip((first, second), tables, strict=True):
        held_out = found["category_id"].map(holdout.is_test)
        assert (found["split"].str.startswith("test/") == held_out).all()
        trained = workdir.read_categories(shop.day(day) / "model")
        assert not any(map(holdout.is_test, trained))
    assert (shop.day(second) / "previous").resolve() == shop.day(first)
