"""Fetches and unpacks Debian's package of furniture models."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mixer_jax.demo.furniture import catalog
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError

NAME, VERSION = "sweethome3d-furniture", "1.8-1"
FILE = f"{NAME}_{VERSION}_all.deb"
# SHA-256 of the package, as published in Debian's package lists.
_CHECKSUM = "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"
_PAGE = f"https://packages.debian.org/bookworm/{NAME}"


def read(package: Path | None, folder: Path) -> list[catalog.Catalog]:
    """Reads the catalogs of the package.

    Args:
      package: the .deb file, or a folder with its content; fetched by apt-get
        into `folder` if None.
      folder: the folder for the package and its content.

    Returns:
      The catalogs, sorted by file name.

    Raises:
      UserError: if a program is missing or fails, the checksum is wrong, there
        are no catalogs, or one is damaged.
    """
    package = fetch(folder) if package is None else package
    if not package.exists():
        raise UserError(f"There is no package at {package}.")
    root = package if package.is_dir() else unpack(package, folder)
    paths = sorted(root.rglob("*.sh3f"), key=lambda path: path.name)
    if not paths:
        raise UserError(
            f"{package} has no furniture catalogs (*.sh3f); give the Debian "
            f"package {NAME} or a folder with its content."
        )
    catalogs = [catalog.read(path) for path in paths]
    keys = [product.key for one in catalogs for product in one.products]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise UserError(f"{package} has two products {min(twice)!r}.")
    return catalogs


def fetch(folder: Path) -> Path:
    """Returns the package's file; fetches it if it is missing.

    Raises:
      UserError: if apt-get is missing or fails, or the checksum is wrong.
    """
    path = folder / FILE
    if path.is_file() and _checksum(path) == _CHECKSUM:
        return path
    apt = _program(
        "apt-get", f"Download {FILE} from {_PAGE} and copy it to {path}."
    )
    files.make_folder(folder)
    print(f"Fetching {NAME}.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as partial:
        command = [apt, "download", f"{NAME}={VERSION}"]
        done = subprocess.run(
            command, cwd=partial, capture_output=True, text=True
        )
        fetched = Path(partial) / FILE
        if done.returncode or not fetched.is_file():
            raise UserError(
                f"`apt-get download {NAME}={VERSION}` failed: "
                f"{' '.join(done.stderr.split()) or 'no file'}. Update the "
                f"package lists, or download {FILE} from {_PAGE} and copy it "
                f"to {path}."
            )
        if _checksum(fetched) != _CHECKSUM:
            raise UserError(
                f"The file that apt-get fetched, {FILE}, does not have the "
                "expected checksum; does apt-get use Debian's archive?"
            )
        os.replace(fetched, path)
    return path


def unpack(package: Path, folder: Path) -> Path:
    """Returns the folder of the package's content; unpacks it if needed.

    Raises:
      UserError: if dpkg-deb is missing or fails.
    """
    target = folder / f"content-{_checksum(package)[:12]}"
    if target.is_dir():
        return target
    dpkg = _program(
        "dpkg-deb",
        f"Unpack {package} on another machine with `dpkg-deb -x`, and give the "
        "folder with --package.",
    )
    files.make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as partial:
        content = Path(partial) / "content"
        done = subprocess.run(
            [dpkg, "-x", str(package), str(content)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(
                f"{package} cannot be unpacked: "
                f"{' '.join(done.stderr.split())}. Is it a Debian package?"
            )
        os.replace(content, target)
    return target


def _program(name: str, remedy: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UserError(
            f"The furniture needs {name}, which is not installed. {remedy}"
        )
    return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
