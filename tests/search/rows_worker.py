"""Searches rows on the devices of all processes and prints the result.

python tests/search/rows_worker.py [--coordinator=... --processes=N --process=I]
"""

import argparse
import hashlib
import sys

import jax
import numpy as np

from mixer_jax.runtime import processes
from mixer_jax.runtime.arrays import normalize
from mixer_jax.search.neighbors import cosine_top_k
from mixer_jax.search.rows import Rows


def search(given):
    assert jax.device_count() == 4
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(900, 8)).astype(np.float32)
    vectors[1::2] = vectors[::2]
    rows = Rows(8, block=16)
    rows.append(vectors[:10])
    rows.append(vectors[10:], labels=np.arange(890) % 7)
    rows.remove(range(0, 900, 5))
    allowed = np.arange(900) % 3 > 0
    queries = rng.normal(size=(20, 8))
    labels = np.arange(20) % 7
    found = [
        *rows.search(queries, 9, allowed=allowed, labels=labels),
        *rows.search(np.zeros((1, 8)), 9),
        rows.positions(queries, np.arange(80).reshape(20, 4)),
        *cosine_top_k(*[normalize(vectors)] * 2, 5, same=True),
    ]
    for array in found:
        content = np.ascontiguousarray(array).tobytes()
        print(array.shape, hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    sys.exit(processes.run_command(search, argparse.ArgumentParser(), None))
