"""Suggestions of existing files for mistyped paths."""

import functools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mixer_jax.runtime.tabular import addresses, references


def hint(path: str | os.PathLike, root: str | os.PathLike = "") -> str:
    """Returns a sentence that names a file similar to a missing one.

    This lists folders, so call it for a few paths only.

    Args:
      path: the path of a missing file.
      root: the folder that the suggestion is relative to; "" for a full path.

    Returns:
      " Did you mean 'a/b.jpg'?", in some cases with an explanation; "" if the
      file exists or no file is similar.
    """
    name, path = os.fspath(path), references.file_of(path)
    if os.path.exists(path) or addresses.split(name)[1]:
        return ""
    folder, rest = _split(path)
    for candidate, note in _readings(rest):
        found = _find(folder, [part for part in candidate.split("/") if part])
        if found is None:
            continue
        name = os.path.relpath(found, root) if root else found
        note = note or _difference(rest, os.path.relpath(found, folder))
        return f" Did you mean {name!r}?{note}"
    return ""


def _split(path: str) -> tuple[str, str]:
    """Splits a path into its deepest existing folder and the rest."""
    folder, parts = path, []
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder.rstrip("/"))
        parts.append(name)
    return folder or os.curdir, "/".join(reversed(parts))


def _readings(rest: str) -> Iterator[tuple[str, str]]:
    """Yields plausible variants of a path, each with an explanation."""
    decoded = unquote(rest)
    yield rest, ""
    if "\\" in rest:
        yield rest.replace("\\", "/"), " Use '/' instead of '\\' in paths."
    if decoded != rest:
        note = " Paths must not be URL-encoded."
        yield decoded, note
        yield decoded.replace("\\", "/"), note


def _difference(rest: str, found: str) -> str:
    if _composed(rest) == _composed(found):
        return (
            " The names look alike, but their accents are encoded in "
            "different Unicode normal forms (NFC, NFD)."
        )
    return ""


def _find(folder: str, parts: list[str]) -> str | None:
    """Returns a file in a folder tree with a path similar to `parts`."""
    for place, part in enumerate(parts):
        is_last = place == len(parts) - 1
        names = _names(folder)
        for key in (str, _composed, _folded, _stem)[: 4 if is_last else 3]:
            like = [name for name in names if key(name) == key(part)]
            exists = os.path.isfile if is_last else os.path.isdir
            like = [x for x in like if exists(os.path.join(folder, x))]
            if like:
                folder = os.path.join(folder, like[0])
                break
        else:
            return None
    return folder if parts else None


def _names(folder: str) -> tuple[str, ...]:
    try:
        return _listed(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return ()


@functools.lru_cache(maxsize=4)
def _listed(folder: str, changed: int) -> tuple[str, ...]:
    del changed  # Part of the cache key: changed folders are listed again.
    return tuple(sorted(os.listdir(folder)))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).strip().casefold())


def _stem(name: str) -> str:
    return Path(_folded(name)).stem
