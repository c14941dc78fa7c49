"""Readers that convert public data sets' files into sample tables."""

from mixer_jax.data.readers import (
    abo,
    aliproducts,
    columns,
    deepfashion_inshop,
    folders,
    products_10k,
    shopee,
    stanford_online_products,
    tfds,
)
from mixer_jax.data.readers.rows import Format
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean

FORMATS: dict[str, Format] = {
    "abo": abo.FORMAT,
    "aliproducts": aliproducts.FORMAT,
    "columns": columns.FORMAT,
    "deepfashion_inshop": deepfashion_inshop.FORMAT,
    "folders": folders.FORMAT,
    "products_10k": products_10k.FORMAT,
    "shopee": shopee.FORMAT,
    "stanford_online_products": stanford_online_products.FORMAT,
    "tfds": tfds.FORMAT,
}


def find(name: str) -> Format:
    """Returns a format by name.

    Raises:
      UserError: if the name is unknown; lists the known formats.
    """
    if name in FORMATS:
        return FORMATS[name]
    message = f"Unknown format {name!r}" if name else "Name a format"
    hint = did_you_mean(name, FORMATS) or "."
    raise UserError(f"{message}{hint} Known formats:\n{listing()}")


def listing() -> str:
    """Returns one line per format, with its name and title."""
    return "\n".join(f"  {a:26}{b.title}" for a, b in FORMATS.items())
