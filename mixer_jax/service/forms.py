"""The forms of the command `mixer_jax.index`, and their options."""

import argparse

from mixer_jax.data.tables import table
from mixer_jax.runtime import numbers, parsing
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean
from mixer_jax.service.stores import encoding
from mixer_jax.service.stores.milvus import options

_SOURCE = "workdir table embeddings split images batch-size max-skipped"
# The options of each form; those with a star are required.
_FORMS = {
    "build": (
        "builds an index, or replaces one when the new one is complete",
        f"out* {_SOURCE} fields storage thumbnails index-kind consistency",
    ),
    "add": ("adds and changes items of an index", f"index* {_SOURCE}"),
    "calibrate": (
        "fits the probabilities of answers to queries with known categories",
        "index* table* split workdir max-skipped",
    ),
    "delete": ("deletes items of an index", "index* id ids"),
    "info": ("describes an index", "index*"),
    "rebuild": (
        "embeds the items of an index with another model",
        "index* workdir* images storage batch-size index-kind consistency keep",
    ),
    "roll-back": (
        "returns to the generation before the last rebuild with --keep",
        "index*",
    ),
    "export": ("writes an index to a Parquet file", "index* out*"),
}
FORMS = tuple(_FORMS)
_OPTIONS = {
    "index": {"help": "the folder of the index, or its address in Milvus"},
    "out": {
        "help": "folder, or address in Milvus, to write; for export, a Parquet "
        "file"
    },
    "workdir": {"help": "workdir of the model, or a bundle"},
    "table": {"help": "the sample table"},
    "embeddings": {
        "help": "folder that mixer_jax.embed wrote, or a Parquet file with the "
        "columns sample_id and embedding"
    },
    "split": {
        "help": "split to index (default: all), or to calibrate with "
        "(default: that of the evaluation)"
    },
    "images": {
        "help": "folder of the pictures (default: that of the table); without "
        "--table and --embeddings, all pictures in it are items"
    },
    "batch-size": {"type": numbers.batch_size, "help": "documents per batch"},
    "max-skipped": {"type": numbers.share, "help": table.MAX_SKIPPED_HELP},
    "fields": {"help": "columns to filter by, as in brand,price:number"},
    "storage": {
        "choices": tuple(encoding.STORAGES),
        "help": "how embeddings are stored",
    },
    "thumbnails": {
        "type": numbers.whole(0, 4096),
        "help": "side length of the thumbnails in the index, in pixels "
        "(default: 0, no thumbnails)",
    },
    "keep": {
        "type": numbers.whole(0, 100),
        "help": "earlier generations to keep for roll-back (default: as many "
        "as are kept now)",
    },
    "index-kind": {
        "choices": options.INDEX_KINDS,
        "help": "kind of an index in Milvus",
    },
    "consistency": {
        "choices": options.CONSISTENCIES,
        "help": "consistency of the searches of an index in Milvus",
    },
    "id": {"action": "append", "help": "an item to delete; may be repeated"},
    "ids": {"help": "file of the IDs of items to delete, one per line"},
}


def make_parser(form: str) -> argparse.ArgumentParser:
    """Returns the argument parser of a form; options not given are absent.

    Raises:
      UserError: if there is no such form; suggests a similar one.
    """
    if form not in _FORMS:
        hint = did_you_mean(form, _FORMS) or ""
        raise UserError(
            f"There is no form {form!r} of mixer_jax.index{hint or '.'} Its "
            f"forms are {', '.join(_FORMS)}."
        )
    text, options = _FORMS[form]
    parser = parsing.for_command(
        f"mixer_jax.index {form}",
        f"{text[0].upper()}{text[1:]}.",
        argument_default=argparse.SUPPRESS,
    )
    for option in options.split():
        name = option.rstrip("*")
        required = option.endswith("*")
        parser.add_argument(f"--{name}", required=required, **_OPTIONS[name])
    return parser


def listing() -> str:
    """Returns a line per form."""
    width = max(map(len, _FORMS))
    lines = (f"  {name:{width}}  {text}" for name, (text, _) in _FORMS.items())
    return "\n".join(lines)
