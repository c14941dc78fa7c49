"""Divides the rows of a table into shards.

By default, the rows of each split are divided at IDs with certain hashes, so
that new or removed rows do not change other shards.

If rows all over the table have changed, nearly every shard has some of them.
Writing all of these again would mean copying the whole data set. Files of the
earlier version are therefore kept although a few of their records are
superseded, and the changed rows are written to additional shards.
"""

import itertools

import numpy as np
import pandas as pd

from mixer_jax.data.prepared import kept
from mixer_jax.data.prepared.tasks import Shard

_ROWS = 1024  # default average number of rows per shard
_LONGEST = 8  # times the average; one in 3,000 shards would be longer
_MAX_SHARDS = 512  # default average number; each shard in use is an open file
_SEED = "mixer_jax shards"  # 16 characters
# Up to this many rows, or this share, are copied rather than superseded.
_COPIED_ROWS, _COPIED_SHARE = 4096, 1 / 32
_SUPERSEDED = 0.1  # maximum share of a file's records, and of a shard's rows
# Enough extra shards to keep several processes equally busy.
_EXTRA_ROWS, _MAX_EXTRA = 64, 64  # minimum rows and number of extra shards


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


def supersede(plan: list[Shard], found: kept.Kept) -> list[Shard]:
    """Returns shards that reuse files in which some records are superseded.

    Args:
      plan: the shards of all rows.
      found: the rows found in an earlier version.

    Returns:
      The given shards, if few rows of the earlier version would be copied.
      Otherwise, shards for the same rows: files of the earlier version are
      linked unless too many of their records are superseded, and the missing
      rows go into additional shards at the end of each split.
    """
    copied = sum(map(found.count_copied, plan))
    total = sum(len(shard.rows) for shard in plan)
    if copied <= max(_COPIED_ROWS, _COPIED_SHARE * total):
        return plan
    taken: set[int] = set()
    shards, extra = [], {}
    for shard in plan:
        part, inside = found.main_part(shard)
        missing = shard.rows[~inside]
        live, size = len(shard.rows) - len(missing), found.size(part)
        lost, limit = size - live, _SUPERSEDED * size
        if part in taken or max(lost, len(missing)) > limit:
            shards.append(shard)
            continue
        taken.add(part)
        # A file without superseded records is recognized by its rows.
        whole = not lost and not len(missing)
        shards.append(shard._replace(rows=shard.rows[inside], linked=not whole))
        extra.setdefault(shard.split, []).append(missing)
    return _named(shards, extra)


def _named(
    shards: list[Shard], extra: dict[str, list[np.ndarray]]
) -> list[Shard]:
    """Adds shards for further rows to each split; renames all shards."""
    named = []
    for split in dict.fromkeys(shard.split for shard in shards):
        own = [shard for shard in shards if shard.split == split]
        rows = np.concatenate([np.zeros(0, int), *extra.get(split, ())])
        rows.sort()
        number = min(-(-len(rows) // _EXTRA_ROWS), _MAX_EXTRA)
        parts = np.array_split(rows, number) if number else []
        own += [Shard("", split, part) for part in parts]
        named += [
            shard._replace(name=file_name(split, place, len(own)))
            for place, shard in enumerate(own)
        ]
    return named
