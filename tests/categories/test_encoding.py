import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import encoding
from mixer_jax.categories.log import ClickLog


@pytest.fixture
def log(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    at = str(tmp_path)
    return ClickLog(
        pd.DataFrame({"query_id": ["q0"], "image": [f"{at}/a"]}),
        pd.DataFrame(
            {
                "item_id": ["i0", "i1", "i2"],
                "image": [f"{at}/b", "", f"{at}/c"],
                "text": ["bee", "no image", ""],
            }
        ),
        pd.DataFrame(),
    )


def test_encodes_once(log, tmp_path):
    calls = []

    def images(paths):
        calls.append(list(paths))
        return np.arange(1.0, len(paths) + 1)[:, None] * np.ones((1, 2))

    def texts(words):
        calls.append(list(words))
        return np.full((len(words), 3), 7.0)

    kept = tmp_path / "out" / "features.npz"
    first = encoding.encode(log, kept, "e1", images, texts)
    at = str(tmp_path)
    assert calls == [[f"{at}/a", f"{at}/b", f"{at}/c"], ["bee", "no image"]]
    assert first.query_image.tolist() == [[1, 1]]
    assert first.item_image.tolist() == [[2, 2], [0, 0], [3, 3]]
    assert first.item_text.tolist() == [[7] * 3, [7] * 3, [0] * 3]

    again = encoding.encode(log, kept, "e1", images, texts)
    assert len(calls) == 2
    np.testing.assert_array_equal(again.item_image, first.item_image)
    encoding.encode(log, kept, "e2", images, texts)
    assert len(calls) == 4
    (tmp_path / "a").write_text("another picture")
    encoding.encode(log, kept, "e2", images, texts)
    assert len(calls) == 6


def test_a_log_without_texts(log, tmp_path):
    log.items["text"] = ""
    got = encoding.encode(
        log, tmp_path / "f.npz", "", lambda p: np.ones((len(p), 2)), None
    )
    assert not got.item_text.any()
