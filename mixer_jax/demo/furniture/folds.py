"""Five folds of products, in which every product is tested once.

Variants of a product (other colors, sizes or numbers) have the same stem, and
a hash of the stem decides on the fold, so no variant of a tested product is
trained on. A tenth of the stems is for validation in the folds in which it is
not tested. Products of one fold, and of the same kind in it, form a cell: they
are trained on, validated and tested together. A picture may therefore show two
products of one cell without revealing a tested product in training.
"""

import re
from typing import NamedTuple

import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import digest

NUMBER = 5  # of folds
TRAIN, VALIDATION, TEST = "train", "val", "test"
# Documents that join the gallery of tests, or of validations.
GALLERY, VALIDATION_GALLERY = "gallery", "val-gallery"
# Words by which variants of one product differ.
_VARIANTS = frozenset(
    {"beige", "black", "blue", "brown", "clear", "dark", "gray", "green"}
    | {"grey", "light", "orange", "pink", "red", "white", "yellow"}
    | {"big", "high", "large", "little", "long", "low", "medium", "short"}
    | {"small", "tall", "wide", "arched", "rectangle", "rectangular", "round"}
    | {"rounded", "square", "straight", "wall", "single", "double", "triple"}
    | {"quadruple", "left", "right", "bended", "closed", "folded", "open"}
    | {"opened", "antenna", "dimmer", "rj", "type"}
)
# Fittings of one series, which differ in a few pixels.
_SAME = {"switch": "plug"}
# Words that begin the details of a title, as in "pine under snow".
_DETAILS = frozenset({"and", "on", "under", "with"})
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


class Cell(NamedTuple):
    """The products that always share a split.

    Attributes:
      fold: the fold in which they are tested.
      validation: whether they are for validation in the other folds.
    """

    fold: int
    validation: bool


def stem(title: str) -> str:
    """Returns a title without the words and letters by which variants differ.

    >>> stem("Small upper cabinet"), stem("Rounded type C plug")
    ('upper cabinet', 'plug')
    """
    words = _WORD.findall(title.lower().partition(",")[0])
    for place, word in enumerate(words):
        if place and word in _DETAILS:
            words = words[:place]
            break
    kept = [w for w in words if len(w) > 1 and w not in _VARIANTS]
    same = [_SAME.get(word, word) for word in kept]
    return " ".join(same) or title.lower()  # a title such as "Light" is kept


def cell(stem: str) -> Cell:
    """Returns the cell of the products with a stem."""
    return Cell(
        digest("fold", stem) % NUMBER, digest("validation", stem) % 10 == 0
    )


def split(samples: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Returns the sample table of a fold.

    Queries are in one part per kind. Each part has its own copy of the
    documents, and the galleries have one, too.

    Args:
      samples: rows of a sample table without splits, and the columns `part`
        (the kind of a query, "" for a document), `fold` and `validation`.
      fold: the number of the fold.
    """
    tested = samples["fold"] == fold
    validated = samples["validation"] & ~tested
    trained = ~tested & ~validated
    frames = [
        _in_parts(samples, trained, TRAIN),
        _in_parts(samples, validated, VALIDATION),
        _in_parts(samples, tested, TEST),
        _documents(samples, ~tested, GALLERY),
        _documents(samples, trained, VALIDATION_GALLERY),
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame[list(table.COLUMNS)]


def _in_parts(
    samples: pd.DataFrame, chosen: pd.Series, name: str
) -> pd.DataFrame:
    queries = samples[chosen & (samples["part"] != "")]
    queries = queries.assign(split=f"{name}/" + queries["part"])
    return pd.concat([queries, _documents(samples, chosen, name)])


def _documents(
    samples: pd.DataFrame, chosen: pd.Series, name: str
) -> pd.DataFrame:
    """Returns a copy of the chosen documents for each part of a split."""
    documents = samples[chosen & (samples["role"] == table.DOCUMENT)]
    splits = [f"{name}/{part}" for part in _parts(samples)]
    return pd.concat(
        [
            documents.assign(
                split=one, sample_id=f"{one}:" + documents["sample_id"]
            )
            for one in splits
        ]
    )


def _parts(samples: pd.DataFrame) -> list[str]:
    return sorted(set(samples["part"]) - {""})
