"""Divides the rows of a table into shards.

By default, the rows of each split are divided at IDs with certain hashes, so
that new or removed rows do not change other shards.
"""

import itertools

import numpy as np
import pandas as pd

from mixer_jax.data.prepared.tasks import Shard

_ROWS = 1024  # average number of rows per shard by default
_LONGEST = 8  # times the average; one in 3,000 shards would be longer
_MAX_SHARDS = 512  # average number by default; each one in use is an open file
_SEED = "mixer_jax shards"  # 16 characters


def split_names(frame: pd.DataFrame) -> np.ndarray:
    """Returns the split of each row without its part, `[N]` of str."""
    codes, splits = pd.factorize(frame["split"])
    names = [split.split("/", 1)[0] for split in splits]
    return np.array(names, object)[codes]


def plan(splits: np.ndarray, ids: np.ndarray, number: int = 0) -> list[Shard]:
    """Divides the rows of each split into shards.

    Args:
      splits: `[N]`, the split of each row.
      ids: `[N]`, the sample IDs.
      number: the number of shards per split, or 0 for about one per 1,024 rows,
        and about 512 at most. A split with fewer rows has one shard per row.
    """
    shards = []
    codes, names = pd.factorize(splits, sort=True)
    hashes = pd.util.hash_array(ids, hash_key=_SEED)
    for code, split in enumerate(names):
        rows = np.flatnonzero(codes == code)
        if number:
            parts = np.array_split(rows, min(number, len(rows)))
        else:
            parts = np.split(rows, _cuts(hashes[rows]))
        for place, part in enumerate(parts):
            name = file_name(split, place, len(parts))
            shards.append(Shard(name, split, part))
    return shards


def _cuts(hashes: np.ndarray) -> np.ndarray:
    """Returns the ascending positions at which shards after the first begin."""
    average = _ROWS
    # A power of 2, so that the cuts for a larger average are a subset.
    while len(hashes) > average * _MAX_SHARDS:
        average *= 2
    cuts = np.flatnonzero(hashes % np.uint64(average) == 0)
    cuts = np.concatenate([[0], cuts[cuts > 0], [len(hashes)]])
    # Cut long shards at regular distances.
    longest = _LONGEST * average
    more = [np.arange(a, b, longest) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(more)[1:]


def file_name(split: str, place: int, count: int) -> str:
    """Returns the name that TFDS gives to a shard's file."""
    of = f"{place:05}-of-{count:05}"
    return f"sample_table-{split}.array_record-{of}"
