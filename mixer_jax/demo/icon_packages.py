"""Fetches the icons' npm packages and reads them without unpacking."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError

ICONIFY = "@iconify/json@2.2.535"
EMOJIBASE = "emojibase-data@17.0.0"
# SHA-512 of each package, as published by the registry.
_CHECKSUMS = {
    ICONIFY: (
        "nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMN"
        "O0uVT5Vrgna9/NCmXw=="
    ),
    EMOJIBASE: (
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNE"
        "C0m2SEmItljHsTygjA=="
    ),
    "lucide-static@1.62.0": (
        "WBZA/m2PvkFpMGHDtsBck5P2A9G4ehLlYu4GwwICcmEm1BvYVgj00lCDxKRWLlbMlOib"
        "LaiwdQ88G5pHkSWgwA=="
    ),
    "@tabler/icons@3.52.0": (
        "dldKlJNfO/gZnGLcIY0X2EFFKIMGwL/rEvTqglvBgAPFiwj9pZOCN5V3Sf0Gyjq6foX4"
        "VQmLdOmsS4w5FdWKAw=="
    ),
    "@phosphor-icons/core@2.1.1": (
        "v4ARvrip4qBCImOE5rmPUylOEK4iiED9ZyKjcvzuezqMaiRASCHKcRIuvvxL/twvLpkf"
        "nEODCOJp5dM4eZilxQ=="
    ),
    "@fortawesome/fontawesome-free@7.3.1": (
        "wmglKKPDIkgV3aWlZzWECCPoGIkYCulzBwxG9+w7rc5BGapZ6cPMpoPOT8k36J0Ni7PP"
        "X6c/rsoMWfS4d1MUMg=="
    ),
}
_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # Iconify's default
_NAME = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError)


class IconSet(NamedTuple):
    """One set of the package; the format is Iconify's `IconifyJSON`.

    Attributes:
      prefix: the set's ID.
      info: name, author, license, category ... of the set.
      icons: icon data by name: body, and size and visibility if they differ
        from those of the set.
      aliases: icon data by name, each with the name of its `parent`.
      categories: names of icons by category.
      prefixes: prefixes of the icons' names, without hyphens.
      suffixes: suffixes of the icons' names, without hyphens.
      chars: names of icons by their code points, "1f34e".
      box: the set's default left, top, width and height.
    """

    prefix: str
    info: dict[str, Any]
    icons: dict[str, dict[str, Any]]
    aliases: dict[str, dict[str, Any]]
    categories: dict[str, list[str]]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    chars: dict[str, str]
    box: dict[str, float]


def fetch(spec: str, folder: Path) -> Path:
    """Returns the tarball of a package; fetches it if it is missing.

    Args:
      spec: one of the pinned packages, `name@version`.
      folder: the folder for the tarball.

    Raises:
      UserError: if npm is missing or fails, or the checksum is wrong.
    """
    path = folder / f"{_file_name(spec)}.tgz"
    if path.is_file() and _checksum(path) == _CHECKSUMS[spec]:
        return path
    npm = shutil.which("npm")
    if npm is None:
        needed = spec in (ICONIFY, EMOJIBASE)
        without = "" if needed else ", or skip it with --no-tags"
        raise UserError(
            f"The drawings need `npm pack {spec}`, but npm is not installed. "
            "Install Node.js, or run that command on another machine and copy "
            f"the file it writes to {path}{without}."
        )
    files.make_folder(folder)
    print(f"Fetching {spec}.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as partial:
        done = subprocess.run(
            [npm, "pack", spec, "--silent"],
            cwd=partial,
            capture_output=True,
            text=True,
        )
        fetched = Path(partial) / path.name
        if done.returncode or not fetched.is_file():
            raise UserError(
                f"`npm pack {spec}` failed: {done.stderr.strip() or 'no file'}"
            )
        if _checksum(fetched) != _CHECKSUMS[spec]:
            raise UserError(
                f"The file that `npm pack {spec}` fetched does not have the "
                "expected checksum; does npm use the right registry?"
            )
        os.replace(fetched, path)
    return path


def read_sets(
    package: Path, wanted: Container[str] | None = None
) -> Iterator[IconSet]:
    """Yields the sets of a package, in the order of its files.

    Args:
      package: a tarball from `npm pack`, or a folder with its content.
      wanted: prefixes of the sets to yield; None for all.

    Raises:
      UserError: if the package is missing, damaged or incomplete, or a set is
        not in Iconify's format.
    """
    listed, found = None, set()
    for name, content in _files(package):
        if name == "collections.json":
            listed = set(_json(content, package, name))
        elif name.startswith("json/") and name.endswith(".json"):
            prefix = name.removeprefix("json/").removesuffix(".json")
            found.add(prefix)
            if wanted is None or prefix in wanted:
                yield _icon_set(_json(content, package, name), package, name)
    if listed is None or not found:
        raise UserError(
            f"{package} is not an @iconify/json package: it needs "
            "collections.json and a folder named json with the icon sets."
        )
    if listed - found:
        raise UserError(
            f"{package} is incomplete: {len(listed - found)} of its sets are "
            f"missing, starting with json/{min(listed - found)}.json."
        )


def read_tags(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Fetches the icon tags of some sets.

    The tags of Material Design Icons are among the aliases of its Iconify set.

    Args:
      folder: the folder for the packages.

    Returns:
      Lists of tags, by set prefix and then by icon name without the style.

    Raises:
      UserError: if a package cannot be fetched or read.
    """
    lucide, tabler, phosphor, awesome = (
        read_file(fetch(spec, folder), name)
        for spec, name in (
            ("lucide-static@1.62.0", "tags.json"),
            ("@tabler/icons@3.52.0", "icons.json"),
            ("@phosphor-icons/core@2.1.1", "dist/index.mjs"),
            (
                "@fortawesome/fontawesome-free@7.3.1",
                "metadata/icon-families.json",
            ),
        )
    )
    terms = {k: icon["search"]["terms"] for k, icon in awesome.items()}
    return {
        "lucide": lucide,
        "tabler": {
            k: [str(tag) for tag in icon["tags"]] for k, icon in tabler.items()
        },
        "ph": phosphor,
        "fa7-brands": terms,
        "fa7-regular": terms,
        "fa7-solid": terms,
    }


def read_file(package: Path, wanted: str) -> Any:
    """Returns the content of one data file of a package.

    Args:
      package: a tarball from `npm pack`.
      wanted: the file's path in the package, without the first folder: a JSON
        file or Phosphor's module.

    Raises:
      UserError: if the package is missing or damaged or has no such file.
    """
    for name, content in _files(package):
        if name == wanted:
            if name.endswith(".json"):
                return _json(content, package, name)
            return _phosphor(content.decode())
    raise UserError(f"{package} has no file {wanted}.")


def _phosphor(module: str) -> dict[str, list[str]]:
    """Reads the tags from the source code of Phosphor's module."""
    icons = re.findall(
        r'\n    name: "([^"]+)".*?\n    tags: \[(.*?)\]', module, re.DOTALL
    )
    return {
        name: [
            tag
            for tag in re.findall(r'"([^"]*)"', tags)
            if not tag.startswith("*")  # "*new*" is not a tag.
        ]
        for name, tags in icons
    }


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each data file of a package."""
    if package.is_dir():
        for path in sorted([*package.glob("*.json"), *package.glob("json/*")]):
            yield path.relative_to(package).as_posix(), path.read_bytes()
        return
    if not package.is_file():
        raise UserError(f"There is no package at {package}.")
    try:
        with tarfile.open(package, "r:gz") as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if member.isfile() and name.endswith((".json", ".mjs")):
                    yield name, archive.extractfile(member).read()
    except _DAMAGE as error:
        raise UserError(
            f"The package {package} is damaged or not an npm package: {error}. "
            "Fetch it again with `npm pack`."
        ) from error


def _json(content: bytes, package: Path, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{package}: {name} is not valid JSON ({error})."
        ) from error


def _icon_set(data: Any, package: Path, name: str) -> IconSet:
    try:
        info = data["info"]
        info["author"]["name"], info["license"]["title"], info["name"]
        if not all("body" in icon for icon in data["icons"].values()):
            raise KeyError("body")
        for word in (data["prefix"], *data["icons"]):
            # These words become file names.
            if not _NAME.fullmatch(word):
                raise ValueError(f"{word!r} is not a valid name")
        return IconSet(
            prefix=data["prefix"],
            info=info,
            icons=data["icons"],
            aliases=data.get("aliases", {}),
            categories=data.get("categories", {}),
            prefixes=tuple(data.get("prefixes", ())),
            suffixes=tuple(data.get("suffixes", ())),
            chars=data.get("chars", {}),
            box={key: data.get(key, value) for key, value in _BOX.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{package}: {name} is not an Iconify set ({error!r})."
        ) from error


def _file_name(spec: str) -> str:
    return spec.removeprefix("@").replace("/", "-").replace("@", "-")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return base64.b64encode(digest).decode()
