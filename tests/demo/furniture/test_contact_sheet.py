import pandas as pd
import pytest
from PIL import Image

from mixer_jax.demo.furniture import contact_sheet


@pytest.mark.parametrize("count", [1, 3, 60])
def test_sheet_shows_the_pictures_of_some_products(tmp_path, count):
    rows = []
    for k in range(count):
        for name, role in (("a", "document"), ("b", "query"), ("c", "query")):
            Image.new("RGB", (8, 8), (9 + k, 0, 99)).save(
                tmp_path / f"{k}{name}.png"
            )
            text = f"Straße € {k}" if role == "document" else ""
            rows.append((f"{k}{name}.png", text, role, f"p{k}"))
    columns = ["image", "text", "role", "category_id"]
    contact_sheet.write(tmp_path, pd.DataFrame(rows, columns=columns))
    with Image.open(tmp_path / contact_sheet.NAME) as sheet:
        colors = {
            color
            for _, color in sheet.convert("RGB").getcolors(1 << 20)
            if color[1:] == (0, 99)
        }
    assert len(colors) == min(count, contact_sheet._PRODUCTS)
