"""Takes the screenshots of the search page that docs/search.md shows.

    python docs/screenshots.py --url=http://127.0.0.1:8000 \
        --picture=runs/quickstart/data/images/twemoji/1f98a.png

Needs a running `mixer_jax.serve`, Chromium, and Playwright, which
launch/test.sh installs.
"""

import argparse
import io
import pathlib
import shutil
import sys

from PIL import Image

sys.path += map(str, pathlib.Path(sys.prefix).glob("playwright*"))
IMAGES = pathlib.Path(__file__).parent / "images"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
DESKTOP = {"viewport": {"width": 1200, "height": 780}}
PHONE = {
    "viewport": {"width": 390, "height": 780},
    "device_scale_factor": 1.5,
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}


def main() -> None:
    """Writes page.png, page_crop.png, page_why.png and page_phone.png."""
    from playwright import sync_api

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--picture", required=True)
    why = "place of the result to explain"
    parser.add_argument("--why", type=int, default=0, help=why)
    given = parser.parse_args()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = search(browser, given, **DESKTOP)
        save(page, "page")
        page.click(f".card .ask >> nth={given.why}")
        page.wait_for_selector("#why-body")
        settle(page)
        save(page, "page_why")
        page.keyboard.press("Escape")
        draw(page)
        save(page, "page_crop")
        save(search(browser, given, **PHONE), "page_phone")
        browser.close()


def search(browser, given, **options):
    """Returns a new page that has searched for the picture."""
    page = browser.new_context(**options).new_page()
    page.goto(given.url)
    page.set_input_files("#file", given.picture)
    settle(page)
    return page


def draw(page) -> None:
    """Selects the upper part of the picture with the mouse."""
    area = page.locator("#frame").bounding_box()
    for x, y in ((0.04, 0.02), (0.5, 0.3), (0.96, 0.52)):
        place = area["x"] + x * area["width"], area["y"] + y * area["height"]
        page.mouse.move(*place, steps=5)
        if y < 0.1:
            page.mouse.down()
    page.mouse.up()
    settle(page)


def settle(page) -> None:
    """Waits for the results and their visible pictures."""
    page.wait_for_selector(".card[data-id]")
    page.wait_for_selector("#progress", state="hidden")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)


def save(page, name: str) -> None:
    """Writes a screenshot with few colors, which is a small file."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    palette = Image.Quantize.MEDIANCUT
    path = IMAGES / f"{name}.png"
    image.quantize(256, palette, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
