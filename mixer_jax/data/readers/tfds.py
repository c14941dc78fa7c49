"""Any data set prepared by TensorFlow Datasets as array_record files.

TensorFlow is not needed. Encoded images are written unchanged to files next to
the table.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax.data.readers import walk
from mixer_jax.data.readers.rows import Format, LeftOut, Row, left_out_text
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted

_INFO = "dataset_info.json"
# File suffix for each signature.
_KINDS = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `read` to a parser."""
    add = parser.add_argument
    add("--name", required=True, help="NAME, NAME/CONFIG or NAME:VERSION")
    add("--image", default="image", help="the feature with the image")
    add("--label", default="label", help="the feature with the category")
    add("--text", default="", help="the feature with the text, if any")
    add("--group", default="", help="the feature with the group, if any")
    add(
        "--own-splits",
        action="store_true",
        help="keep the data set's splits, which must not share categories; "
        "by default, samples are split by a hash of the category",
    )


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each example, split by split.

    Raises:
      UserError: if the data set is missing or unreadable, or a feature is
        missing or has the wrong type.
    """
    # Import only when needed, since it takes seconds.
    import tensorflow_datasets as tfds

    folder = _folder(root, options.name, left_out)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # Damaged files raise many error types.
        raise UserError(f"{folder} cannot be read: {error}") from error
    features = builder.info.features
    named = (options.image, options.label, options.text, options.group)
    for name in filter(None, named):
        if name not in features:
            raise UserError(
                f"{folder} has no feature {name!r}; its features are "
                f"{', '.join(sorted(features))}."
            )
    if not isinstance(features[options.image], tfds.features.Image):
        raise UserError(
            f"The feature {options.image!r} of {folder} is not an image; "
            "--image must name an image feature."
        )
    try:
        sources = builder.as_data_source(
            decoders={options.image: tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise UserError(
            f"{folder} does not support random access; prepare it with "
            'file_format="array_record".'
        ) from error
    home = options.out.parent
    for split in sorted(sources):
        source = sources[split]
        relative = f"images/{options.name.replace(':', '/')}/{split}"
        (home / relative).mkdir(parents=True, exist_ok=True)
        for number in range(len(source)):
            example = source[number]
            label, text, group = (
                _string(features, feature, example)
                for feature in (options.label, options.text, options.group)
            )
            if not label:
                left_out["without a label"] += 1
                continue
            encoded = example[options.image]
            name = f"{relative}/{number:08d}{_suffix(encoded)}"
            _write(home / name, encoded)
            own = split if options.own_splits else ""
            key = f"{split}/{number}"
            yield Row(key, name, text, label, group, split=own)


def _folder(root: Path, name: str, left_out: LeftOut) -> Path:
    """Returns the folder of a data set's given or latest version."""
    base, _, version = name.partition(":")
    prepared = _prepared(root, left_out)
    found = [path for path in prepared if path.is_relative_to(root / base)]
    if version:
        found = [path for path in found if path.name == version]
    if not found:
        known = sorted(
            path.relative_to(root).parent.as_posix() for path in prepared
        )
        raise UserError(
            f"There is no prepared data set {name} in {root}; found: "
            f"{', '.join(dict.fromkeys(known)) or 'none'}; left out: "
            f"{left_out_text(left_out)}."
        )
    configs = sorted({path.parent for path in found})
    if len(configs) > 1:
        names = ", ".join(one.relative_to(root).as_posix() for one in configs)
        raise UserError(
            f"--name={name} has several configs; choose one of them: {names}."
        )
    return max(found, key=_version)


def _prepared(root: Path, left_out: LeftOut) -> list[Path]:
    """Returns the folders of all prepared data sets, following links."""
    count = LeftOut()
    found = [
        root.joinpath(*parts)
        for parts, names in walk.walk(root, count)
        if _INFO in names
    ]
    for why in (walk.UNREADABLE, walk.DANGLING):  # These may be data sets.
        left_out[why] += count[why]
    return found


def _version(path: Path) -> tuple[int, ...]:
    numbers = path.name.split(".")
    return tuple(int(one) if one.isdecimal() else -1 for one in numbers)


def _string(features: Any, name: str, example: dict[str, Any]) -> str:
    """Returns a feature's value as a string; "" if `name` is empty."""
    if not name:
        return ""
    value = example[name]
    if hasattr(features[name], "int2str"):  # A class label, possibly unknown.
        return features[name].int2str(int(value)) if int(value) >= 0 else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if np.ndim(value) or isinstance(value, dict):
        raise UserError(
            f"The feature {name!r} has several values in an example, such as "
            f"{quoted(value)}; a category, text or group must be one value."
        )
    return str(value)


def _suffix(encoded: bytes) -> str:
    kinds = (b for a, b in _KINDS.items() if encoded.startswith(a))
    return next(kinds, ".img")


def _write(path: Path, encoded: bytes) -> None:
    """Writes a file atomically, unless it exists with the same content."""
    same_size = path.is_file() and path.stat().st_size == len(encoded)
    if same_size and path.read_bytes() == encoded:
        return
    files.write(
        path, lambda draft: draft.write_bytes(encoded), one_of_many=True
    )


FORMAT = Format(
    "a data set prepared by TensorFlow Datasets",
    ("<name>/<version>/dataset_info.json and its array_record files",),
    read,
    add_options,
    beside_table=True,
)
