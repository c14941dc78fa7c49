"""Reads the furniture catalogs of Sweet Home 3D.

A catalog (`.sh3f`) is a zip file with the 3-D models and pictures of products,
and a Java properties file with one line per field and product:

    name#12=Armchair
    model#12=/scopia/armchair/armchair.obj
"""

import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mixer_jax.runtime.errors import UserError

_PROPERTIES = "PluginFurnitureCatalog.properties"
_TERMS = "LICENSE.TXT"
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, zlib.error)
_FIELD = re.compile(r"([A-Za-z]+)#(\d+)")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_IDENTITY = "1 0 0 0 1 0 0 0 1"


class Product(NamedTuple):
    """One product of a catalog.

    Attributes:
      key: an ID such as "scopia/bed1", unique over all catalogs; its two parts
        are valid file names.
      title: the English title.
      group: the catalog's category, such as "Bedroom".
      creator: the author of the model.
      archive: the path of the catalog.
      picture: the name of the picture in the archive.
      model: the name of the 3-D model (OBJ) in the archive.
      rotation: the rows of the matrix that sets the model upright.
      size: width, height and depth in centimeters.
    """

    key: str
    title: str
    group: str
    creator: str
    archive: Path
    picture: str
    model: str
    rotation: tuple[float, ...]
    size: tuple[float, float, float]


class Catalog(NamedTuple):
    """A catalog.

    Attributes:
      name: the catalog's name.
      license: the name of the license, with the copyright notice.
      terms: the text of the license file.
      products: the products, in the order of their numbers.
    """

    name: str
    license: str
    terms: str
    products: list[Product]


def read(path: Path) -> Catalog:
    """Reads a catalog.

    Raises:
      UserError: if the file is damaged or not a catalog, or a product lacks a
        field, its model or its picture.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive.read(_PROPERTIES).decode("latin-1"))
            terms = archive.read(_TERMS).decode("latin-1")
            names = frozenset(archive.namelist())
    except KeyError as error:
        raise UserError(
            f"{path} is not a furniture catalog: {error.args[0]}"
        ) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    products = [
        _product(path, number, fields, names)
        for number, fields in sorted(_numbered(entries).items())
    ]
    if not products:
        raise UserError(f"The furniture catalog {path} has no products.")
    return Catalog(
        name=entries.get("name", path.stem),
        license=entries.get("license", "unknown"),
        terms="\n".join(line.rstrip() for line in terms.strip().splitlines()),
        products=products,
    )


def contents(product: Product) -> dict[str, bytes]:
    """Returns the files of a product's model by name, textures included.

    Raises:
      UserError: if the catalog is damaged.
    """
    folder = PurePosixPath(product.model).parent
    try:
        with zipfile.ZipFile(product.archive) as archive:
            return {
                PurePosixPath(name).name: archive.read(name)
                for name in archive.namelist()
                if PurePosixPath(name).parent == folder and name[-1] != "/"
            }
    except _DAMAGE as error:
        raise _damaged(product.archive, error) from error


def picture(product: Product) -> bytes:
    """Returns the content of a product's picture file.

    Raises:
      UserError: if the catalog is damaged.
    """
    try:
        with zipfile.ZipFile(product.archive) as archive:
            return archive.read(product.picture)
    except _DAMAGE as error:
        raise _damaged(product.archive, error) from error


def checksums(path: Path) -> dict[str, int]:
    """Returns the CRC-32 of each file of a catalog, without reading it."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: info.CRC for info in archive.infolist()}


def _damaged(path: Path, error: Exception) -> UserError:
    """Returns the error for a catalog that cannot be read."""
    return UserError(
        f"The furniture catalog {path} cannot be read: {error}. Unpack the "
        "package again, or fetch it again if it is damaged."
    )


def _entries(text: str) -> dict[str, str]:
    """Parses a properties file; lines that start with # are comments."""
    pairs = (
        line.split("=", 1)
        for line in text.splitlines()
        if "=" in line and not line.startswith("#")
    )
    return {
        key.strip(): _ESCAPE.sub(lambda m: chr(int(m[1], 16)), value.strip())
        for key, value in pairs
    }


def _numbered(entries: dict[str, str]) -> dict[int, dict[str, str]]:
    """Returns the fields of each product, by its number."""
    found: dict[int, dict[str, str]] = {}
    for key, value in entries.items():
        if match := _FIELD.fullmatch(key):
            found.setdefault(int(match[2]), {})[match[1]] = value
    return found


def _product(
    path: Path, number: int, fields: dict[str, str], names: frozenset[str]
) -> Product:
    where = f"{path}, product {number}"
    wanted = ("id", "name", "category", "icon", "model")
    for field in (*wanted, "width", "height", "depth"):
        if not fields.get(field):
            raise UserError(f"{where}: the field {field} is missing.")
    picture, model = (fields[key].lstrip("/") for key in ("icon", "model"))
    for name in (picture, model):
        if name not in names:
            raise UserError(f"{where}: the catalog has no file {name}.")
    shape = [fields[key] for key in ("width", "height", "depth")]
    rotation = fields.get("modelRotation") or _IDENTITY
    return Product(
        key=_key(fields["id"]),
        title=fields["name"],
        group=fields["category"],
        creator=fields.get("creator") or "unknown",
        archive=path,
        picture=picture,
        model=model,
        rotation=_numbers(rotation.split(), 9, f"{where}: modelRotation"),
        size=_numbers(shape, 3, f"{where}: width, height and depth"),
    )


def _key(name: str) -> str:
    """Maps "Blend Swap CC-0#bed1" to "blend-swap-cc-0/bed1"."""
    catalog, _, model = name.partition("#")
    parts = catalog.lower(), model or "product"
    return "/".join(re.sub(r"[^A-Za-z0-9_-]+", "-", part) for part in parts)


def _numbers(words: list[str], count: int, where: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, words))
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from error
    if len(found) != count:
        raise UserError(f"{where}: {len(found)} numbers instead of {count}.")
    return found
