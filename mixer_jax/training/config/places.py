"""Finds the paths in a config after its workdir and data have moved.

A workdir records each path as given, as an absolute path and relative to the
workdir. The relative path is tried first: workdir and data may move together.
"""

import filecmp
import os
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.data.stream.text import MINILM
from mixer_jax.runtime import paths

TABLES = ("data.table", "evaluate.table")
FOLDERS = ("data.tokenizer", "model.image.pretrained", "model.text.pretrained")
KEYS = ("init_from", *TABLES, *FOLDERS)  # all config keys that hold paths
TOKENIZER = "tokenizer"  # a copy of the tokenizer, in the workdir

Places = dict[str, dict[str, str]]
EARLIER = "earlier"  # names before a move, separated by NULs


def get(config: ConfigDict, key: str) -> str:
    """Returns the value of a dotted key; "" if there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, "")
    return value


def put(config: ConfigDict, key: str, value: str) -> None:
    """Sets the value of a dotted key."""
    *parts, last = key.split(".")
    for part in parts:
        config = config[part]
    config[last] = value


def record(
    workdir: str | os.PathLike, config: ConfigDict, old: Places
) -> Places:
    """Returns the locations of the config's paths.

    Args:
      workdir: the run's workdir.
      config: the stage's config.
      old: earlier locations; kept for paths that no longer exist.
    """
    places = {}
    for key in KEYS:
        text, place = get(config, key), old.get(key, {})
        if not text or "://" in text or text == MINILM:
            continue
        if os.path.exists(text):
            places[key] = _place(workdir, text)
        elif is_same(workdir, place, text):  # `restore` may have changed it.
            places[key] = place | {"given": text}
        else:
            continue
        if earlier := _earlier(place, text):
            places[key][EARLIER] = earlier
    return places


def _place(workdir: str | os.PathLike, text: str) -> dict[str, str]:
    place = {"given": text, "absolute": os.path.abspath(text)}
    if not paths.is_remote(paths.make(workdir)):
        place["relative"] = os.path.relpath(
            place["absolute"], os.path.abspath(workdir)
        )
    return place


def _earlier(place: dict[str, str], text: str) -> str:
    """Returns earlier names of a path that a command may still use."""
    names = [place[key] for key in ("given", "absolute") if key in place]
    names += place.get(EARLIER, "").split("\0")
    known = {"", text, os.path.abspath(text)}
    return "\0".join(n for n in dict.fromkeys(names) if n not in known)


def _was(place: dict[str, str], text: str) -> bool:
    """Returns whether a path was recorded under this name before a move."""
    names = filter(None, place.get(EARLIER, "").split("\0"))
    return bool(text) and os.path.normpath(text) in map(os.path.normpath, names)


def find(
    workdir: str | os.PathLike, place: dict[str, str], text: str
) -> str | None:
    """Returns the current location of a recorded path; None if not found.

    Args:
      workdir: the run's current workdir.
      place: the location from `record`.
      text: the path in the config.
    """
    existing = [p for p in _candidates(workdir, place) if os.path.exists(p)]
    if not existing:
        return text if os.path.exists(text) else None
    same = os.path.exists(text) and os.path.samefile(text, existing[0])
    return text if same else existing[0]


def _candidates(workdir: str | os.PathLike, place: dict[str, str]) -> list[str]:
    relative, moved = place.get("relative", ""), []
    if relative and not paths.is_remote(paths.make(workdir)):
        moved = [
            os.path.normpath(os.path.join(folder, relative))
            for folder in (os.path.abspath(workdir), os.path.realpath(workdir))
        ]
    return [*moved, place["absolute"]]


def rival(
    workdir: str | os.PathLike, place: dict[str, str], path: str | os.PathLike
) -> str:
    """Returns another location of a path with different contents, or "".

    Args:
      workdir: the run's current workdir.
      place: the location from `record`; {} if there is none.
      path: the path returned by `find`.
    """
    if not place or not os.path.exists(path):
        return ""
    for other in _candidates(workdir, place):
        if os.path.exists(other) and not _are_equal(other, path):
            return other
    return ""


def _are_equal(one: str | os.PathLike, two: str | os.PathLike) -> bool:
    """Returns whether two files, or the files of two folders, are equal."""
    try:
        if os.path.samefile(one, two):
            return True
        if os.path.isdir(one) != os.path.isdir(two):
            return False
        if not os.path.isdir(one):
            return filecmp.cmp(one, two, shallow=False)
        names = sorted(os.listdir(one))
        return names == sorted(os.listdir(two)) and all(
            _are_equal(os.path.join(one, name), os.path.join(two, name))
            for name in names
        )
    except OSError:
        return False


def is_same(
    workdir: str | os.PathLike, place: dict[str, str], text: str
) -> bool:
    """Returns whether `text` is the recorded path, which need not exist."""
    if "://" in text or not place:
        return text.rstrip("/") == place.get("given", "").rstrip("/")
    if os.path.normpath(text) == os.path.normpath(place["given"]):
        return True
    recorded = {os.path.realpath(path) for path in _candidates(workdir, place)}
    return os.path.realpath(text) in recorded


def _known(places: Places) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the entries whose keys are config keys that hold paths."""
    return (each for each in places.items() if each[0] in KEYS)


def resolve(
    workdir: str | os.PathLike, config: ConfigDict, places: Places
) -> None:
    """Replaces the paths in a workdir's config with their current locations.

    Paths not found stay unchanged, except for the tokenizer, which becomes the
    workdir's copy.
    """
    for key, place in _known(places):
        text = get(config, key)
        if text != place["given"]:
            continue
        put(config, key, _locate(workdir, key, place, text) or text)


def restore(
    workdir: str | os.PathLike, config: ConfigDict, places: Places
) -> None:
    """Replaces a config's missing paths with their recorded locations.

    A command repeated after a move then finds its data.
    """
    for key, place in _known(places):
        text = get(config, key)
        known = _was(place, text) or is_same(workdir, place, text)
        if os.path.exists(text) or not known:
            continue
        found = _locate(workdir, key, place, text)
        put(config, key, found or place["absolute"])


def _locate(
    workdir: str | os.PathLike, key: str, place: dict[str, str], text: str
) -> str | None:
    """Returns the result of `find`, or the workdir's copy of the tokenizer."""
    found = find(workdir, place, text)
    copy = os.path.join(workdir, TOKENIZER)
    if found is None and key == "data.tokenizer" and os.path.exists(copy):
        return copy
    return found
