"""Finds names that look alike, such as "7" and "7.0", or "cat" and "cat "."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mixer_jax.runtime.text import quoted

# Control and format characters such as a zero-width space, variation selectors,
# and invisible letters.
_INVISIBLE = (
    r"[\p{Cc}\p{Cf}\x{34f}\x{115f}\x{1160}\x{180b}-\x{180f}\x{3164}"
    r"\x{fe00}-\x{fe0f}\x{ffa0}\x{e0100}-\x{e01ef}]"
)


def keys(names: Sequence[str] | pa.Array) -> pa.Array:
    """Returns a key for each name, equal for names that look alike.

    Keys ignore repeated and outer whitespace, invisible characters, case, the
    Unicode normal form, and the leading zeros and the fraction .0 of integers.
    """
    if not isinstance(names, pa.Array | pa.ChunkedArray):
        names = pa.array(names, pa.string())
    text = pc.utf8_lower(pc.utf8_normalize(names, "NFC"))
    text = pc.replace_substring_regex(text, r"[\s\p{Z}]", " ")
    text = pc.replace_substring_regex(text, _INVISIBLE, "")
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, " +", " "))
    return pc.replace_substring_regex(text, r"^0*(\d+)(\.0*)?$", r"\1")


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of names that look alike, the earlier name first.

    Args:
      names: distinct names.
    """
    encoded = keys(names).dictionary_encode().indices.to_numpy()
    later = np.flatnonzero(pd.Series(encoded).duplicated())
    if not len(later):
        return []
    _, first = np.unique(encoded, return_index=True)
    return [(names[first[encoded[i]]], names[i]) for i in later]


def misspelled(
    names: Sequence[str], known: Sequence[str]
) -> tuple[str, str] | None:
    """Finds an unknown name that looks like a known one.

    Args:
      names: the names to look up.
      known: the names that exist.

    Returns:
      The first such name and its `hint`; None if there is none. Known names
      that also occur in `names` do not count.
    """
    ours, theirs = dict.fromkeys(names), dict.fromkeys(known)
    unknown = [name for name in ours if name not in theirs]
    left = [name for name in theirs if name not in ours]
    like = dict(zip(keys(left).to_pylist(), left, strict=True))
    for name, key in zip(unknown, keys(unknown).to_pylist(), strict=True):
        if key in like:
            return name, hint(name, [like[key]])
    return None


def hint(name: str, known: Sequence[str] | pd.Series) -> str:
    """Returns a clause to append to a message about an unknown name.

    Args:
      name: the unknown name.
      known: the known names.

    Returns:
      A clause with the known name that looks like it; "" if there is none.
    """
    known = list(known)
    place = pc.index(keys(known), keys([name])[0]).as_py()
    if place < 0:
        return ""
    other = known[place]
    if name.partition(".")[0] == other.partition(".")[0]:
        return (
            f", which has {quoted(other)}: a program such as pandas has turned "
            "IDs into floats; write them as integers or text, in pandas with "
            '.astype("Int64")'
        )
    return f", which has {quoted(other)}; use the same spelling in both"
