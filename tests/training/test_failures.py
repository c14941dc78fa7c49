"""Each failure that a monitor describes, provoked in a run."""

import pytest
from PIL import Image

from mixer_jax.data.tables import table
from tests.training.conftest import write_table
from tests.training.test_loop import train

_CATEGORIES = 48
_BLANK = {"proxies.init": "imprint", "proxies.learning_rate": 1e-3}
_FEW = {"head.active": 0.2, "batch_size": 4}
# Settings that provoke a failure, by the monitor that has to report it.
PROVOKED = {
    "proxy_cosine": _BLANK,
    "effective_rank": _BLANK,
    # A step changes a fifth of the proxies.
    "norm_ratio": _FEW | {"head.name": "sampled", "proxies.learning_rate": 1e4},
    "concept_variance": {},
    "slot_entropy": {
        "model.memory_norm": "slots",
        "optimizer.learning_rate": 1e3,
        "optimizer.warmup": 0.0,
    },
    # The class graph has one neighbor per category, and is never rebuilt.
    "active_recall": _FEW
    | {"head.name": "knn", "head.neighbors": 2, "head.refresh": 1000},
    "plateau": {
        "optimizer.learning_rate": 1e-9,
        "proxies.learning_rate": 1e-9,
    },
}


def fired(config, folder):
    """Returns the names of the monitors that warned in a run."""
    config.steps = 24
    config.monitors.every = 1
    config.monitors.plateau_window = 10
    _, output = train(config, folder)
    lines = [x for x in output.splitlines() if "warning: " in x]
    text = " ".join(lines)
    return {
        sign
        for sign in PROVOKED
        if sign in text or (sign == "plateau" and "over the last" in text)
    }


@pytest.mark.parametrize("sign", PROVOKED)
def test_failures_are_reported(sign, toy, tiny_config, tmp_path):
    path = write_table(tmp_path / "data", _CATEGORIES)
    frame = table.read_table(path)
    if sign in ("proxy_cosine", "effective_rank"):
        for name in set(frame["image"]) - {""}:
            Image.new("RGB", (16, 16)).save(path.parent / name)
        table.write_table(frame.assign(text=""), path)
    if sign == "concept_variance":
        frame.loc[frame["text"] != "", "text"] = "an item"
        table.write_table(frame, path)
    tiny_config.data.table = str(path)
    tiny_config.update_from_flattened_dict(PROVOKED[sign])
    assert sign in fired(tiny_config, tmp_path / "run")


def test_healthy_runs_report_nothing(toy, tiny_config, tmp_path):
    assert not fired(tiny_config, tmp_path)
