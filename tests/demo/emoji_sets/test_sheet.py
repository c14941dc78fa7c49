import numpy as np
import pandas as pd
from PIL import Image

from mixer_jax.demo.emoji_sets import sheet


def test_each_drawing_is_in_its_row_and_column(tmp_path):
    colors = {
        ("one", "1f431"): (250, 0, 0),
        ("one", "23-20e3"): (0, 250, 0),
        ("fluent-emoji-flat", "23-20e3"): (0, 0, 250),
    }
    rows = []
    for (name, key), color in colors.items():
        image = f"{name}-{key}.png"
        Image.new("RGB", (8, 8), color).save(tmp_path / image)
        rows.append((name, key, image))
    drawings = pd.DataFrame(rows, columns=["set", "key", "image"])
    path = tmp_path / "sheet.png"
    sheet.write(path, drawings, ["23-20e3", "1f431"], ["keycap", "côte"])
    with Image.open(path) as image:
        pixels = np.asarray(image)
    step = sheet._CELL + sheet._MARGIN

    def cell(row, column):
        top = sheet._HEADER + step * row
        left = sheet._LABEL + step * column
        return pixels[top : top + sheet._CELL, left : left + sheet._CELL]

    assert (cell(0, 0) == (0, 250, 0)).all()
    assert (cell(0, 1) == (0, 0, 250)).all()
    assert (cell(1, 0) == (250, 0, 0)).all()
    assert (cell(1, 1) == 255).all()
    assert (pixels[:, : sheet._LABEL] < 128).any()
