"""Order of the rows in the endless training streams.

A row depends only on the seed and its position. Streams have no other state, so
they resume at any position, and are the same for any number of processes,
threads or workers. They hold a few bytes per category, and none per sample.

`uniform`: every sample occurs once per epoch, in a new order in each epoch.

`tempered`, for long-tailed data: among a role's samples, category c has the
share n_c^(1/T) / sum_j n_j^(1/T), where n_c is its number of samples in that
role and T the temperature. At T = 1, the share is the frequency of c, and every
sample occurs once per epoch; as T grows, the shares become equal. An epoch has
N positions, the number of samples. A category gets its share of these
positions, randomly rounded up or down, and its samples take turns.

`balanced`: per role, a batch has P categories with K samples each; queries and
documents share the categories that have both roles. Each category occurs once
per epoch, except for a remainder of fewer than P. If a category lacks a role, a
category that is not in the batch replaces it in that role. The samples of a
category take turns; if there are fewer than K, some are repeated.
"""

import dataclasses
import functools
import math

import grain
import numpy as np

from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables.samples import Samples
from mixer_jax.runtime.errors import UserError

UNIFORM, TEMPERED, BALANCED = NAMES = ("uniform", "tempered", "balanced")
_GOLDEN = (5**0.5 - 1) / 2
_BATCHES = 16  # cached batches per role; threads work on several at a time


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings for drawing samples.

    Attributes:
      name: one of `NAMES`.
      temperature: T of `tempered`, at least 1.
      samples: K of `balanced`, samples per category and role in a batch.
    """

    name: str = UNIFORM
    temperature: float = 1.0
    samples: int = 4


EACH = Sampling()  # every sample once per epoch


def check(sampling: Sampling, batch_size: int) -> None:
    """Checks the settings as far as possible without data.

    Args:
      sampling: how samples are drawn.
      batch_size: B, of both roles together.

    Raises:
      UserError: if a setting is invalid; names its config key and valid values.
    """
    if sampling.name not in NAMES:
        raise UserError(
            f"data.sampler is '{sampling.name}'; it must be one of "
            f"{', '.join(NAMES)}."
        )
    if not 1 <= sampling.temperature < float("inf"):
        raise UserError(
            f"data.temperature is {sampling.temperature}; it must be 1 "
            "(sampling by frequency) or more (closer to uniform over "
            "categories)."
        )
    if sampling.samples < 1:
        raise UserError(
            f"data.samples_per_category is {sampling.samples}; it must be 1 or "
            "more."
        )
    if sampling.name == BALANCED and batch_size // 2 % sampling.samples:
        raise UserError(
            f"data.samples_per_category is {sampling.samples}; it must divide "
            f"half the batch, {batch_size // 2} samples (batch_size is "
            f"{batch_size})."
        )


def streams(
    sampling: Sampling,
    samples: Samples,
    batch_size: int,
    seed: int,
) -> dict[str, grain.MapDataset]:
    """Returns the endless stream of each role's rows.

    Args:
      sampling: how samples are drawn.
      samples: the samples, with at least one per role.
      batch_size: B; a stream has B / 2 positions per batch.
      seed: the only source of randomness.

    Raises:
      UserError: if the rows cannot be sampled as requested.
    """
    check(sampling, batch_size)
    if sampling.name == BALANCED:
        balanced = Balanced(samples, batch_size // 2, sampling, seed)
    out = {}
    for number, role in enumerate(samples_lib.ROLES):
        # Grain seeds epoch e with seed + e, so the seeds must be far apart.
        (start,) = np.random.SeedSequence([seed, number]).generate_state(1)
        if sampling.name == UNIFORM:
            rows = Rows(samples, role).seed(int(start))
            out[role] = rows.shuffle().repeat()
            continue
        count = len(samples.of_role(role))
        places = grain.MapDataset.range(count).seed(int(start))
        if sampling.name == TEMPERED:
            tempered = Tempered(samples, role, sampling.temperature, start)
            shuffled = places.shuffle().repeat()
            out[role] = shuffled.map_with_index(tempered.row)
        else:
            row = functools.partial(balanced.row, role)
            out[role] = places.repeat().map_with_index(row)
    return out


class Rows(grain.MapDataset):
    """Dataset of the rows of a role, in ascending order."""

    def __init__(self, samples: Samples, role: str):
        """Initializes the dataset."""
        super().__init__()
        self._samples, self._role = samples, role

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._samples.of_role(self._role))

    def __getitem__(self, index: int) -> int:
        """Returns the row at an index, modulo the length."""
        rows = self._samples.of_role(self._role)
        return int(rows[index % len(rows)])


class Places(grain.MapDataset):
    """Dataset of the values of an array.

    Grain's own source is slower because it measures sizes in bytes.
    """

    def __init__(self, values: np.ndarray):
        """Initializes the dataset."""
        super().__init__()
        self._values = values

    def __len__(self) -> int:
        """Returns the number of values."""
        return len(self._values)

    def __getitem__(self, index: int) -> int:
        """Returns the value at an index, modulo the length."""
        return int(self._values[index % len(self._values)])


def take(
    samples: Samples,
    role: str,
    category: int,
    turns: int | np.ndarray,
    seed: int,
) -> np.ndarray:
    """Returns the rows of a category at `turns`, in a shuffled order.

    The n rows take turns with a random start and a random stride that has no
    common factor with n, so that no order has to be stored.

    Args:
      samples: the samples.
      role: "query" or "document".
      category: the category, which has a sample of this role.
      turns: int, any shape; the order repeats after n turns.
      seed: determines the order.
    """
    rows = samples.of_category(role, category)
    count = len(rows)
    key = [seed, samples_lib.ROLES.index(role), category]
    start, stride = np.random.SeedSequence(key).generate_state(2).tolist()
    stride = stride % count or 1
    while math.gcd(stride, count) > 1:
        stride = stride % count + 1
    return rows[(start + turns % count * stride) % count]


class Tempered:
    """Temperature sampling of the rows of one role."""

    def __init__(
        self, samples: Samples, role: str, temperature: float, seed: int
    ):
        """Assigns each category an interval of an epoch's positions.

        Args:
          samples: the samples.
          role: "query" or "document"; N is its number of samples.
          temperature: T.
          seed: the only source of randomness.
        """
        self._samples, self._role, self._seed = samples, role, int(seed)
        self._count = len(samples.of_role(role))
        weights = samples.counts(role).astype(np.float64)
        present = weights > 0
        # Categories without a row in this role keep a weight of 0.
        weights[present] **= 1 / temperature
        ends = np.cumsum(weights)
        # At T = 1, this factor is 1 and all ends are integers.
        self._ends = ends * (self._count / ends[-1])
        self._last = np.flatnonzero(present)[-1]
        self._phase = np.random.default_rng([seed, 1]).random()

    def row(self, index: int, place: int) -> int:
        """Returns the row at a position.

        Args:
          index: the index in the stream, which determines the epoch.
          place: the shuffled position in the epoch; 0 to N - 1 occur once each.
        """
        epoch = index // self._count
        # Each epoch's offset rounds a category's share of the positions up or
        # down; golden-ratio steps even out the rounding over epochs.
        offset = (self._phase + epoch * _GOLDEN) % 1.0
        category = np.searchsorted(self._ends, place + offset, side="right")
        category = min(int(category), self._last)
        begin = self._ends[category - 1] if category else 0.0
        first = max(int(np.ceil(begin - offset)), 0)
        # The approximate number of the category's turns in earlier epochs.
        before = int(epoch * (self._ends[category] - begin))
        turn = before + place - first
        return int(take(self._samples, self._role, category, turn, self._seed))


class Balanced:
    """Balanced sampling of the rows of both roles."""

    def __init__(
        self, samples: Samples, half: int, sampling: Sampling, seed: int
    ):
        """Lists the categories that can be drawn.

        Args:
          samples: the samples.
          half: P K, the number of samples per role in a batch.
          sampling: how samples are drawn, including K.
          seed: the only source of randomness.

        Raises:
          UserError: if a role has fewer than P categories.
        """
        self._given = (samples, half, sampling, seed)
        self._samples, self._seed = samples, seed
        self._each = sampling.samples  # K
        self._half, self._per_batch = half, half // sampling.samples
        self._categories = {}
        for number, role in enumerate(samples_lib.ROLES):
            available = np.flatnonzero(samples.counts(role)).astype(np.int32)
            if len(available) < self._per_batch:
                raise UserError(
                    f"A balanced batch of {2 * half} samples with "
                    f"data.samples_per_category={self._each} needs "
                    f"{self._per_batch} categories with a {role}; there are "
                    f"only {len(available)}. Lower batch_size or raise "
                    "data.samples_per_category."
                )
            order = np.random.default_rng([seed, number, 1])
            self._categories[role] = order.permutation(available)
        categories = np.unique(np.concatenate(list(self._categories.values())))
        (start,) = np.random.SeedSequence([seed, 2]).generate_state(1)
        self._walk = Places(categories).seed(int(start)).shuffle()
        self._batches = len(categories) // self._per_batch  # per epoch
        self._rows = functools.lru_cache(2 * _BATCHES)(self._make_rows)

    def __reduce__(self):
        # Do not send the cached batches to other processes.
        return type(self), self._given

    def row(self, role: str, index: int, place: int) -> int:
        """Returns the row at an index of a role's stream."""
        del place  # The index determines the row.
        batch, inside = divmod(index, self._half)
        return int(self._rows(role, batch)[inside])

    def _make_rows(self, role: str, batch: int) -> np.ndarray:
        """Returns the rows of a role in a batch, int [P K]."""
        epoch, number = divmod(batch, self._batches)
        first = epoch * len(self._walk) + number * self._per_batch
        last = first + self._per_batch
        chosen = np.array([self._walk[i] for i in range(first, last)])
        role_number = samples_lib.ROLES.index(role)
        rng = np.random.default_rng([self._seed, 3, role_number, batch])
        begins = self._samples.begins[role_number]
        lacking = begins[chosen] == begins[chosen + 1]
        turns = np.where(lacking, batch, epoch)
        if lacking.any():
            chosen = chosen.copy()
            chosen[lacking] = self._stand_ins(role, chosen, lacking.sum(), rng)
        each = np.arange(self._each)
        rows = [
            take(
                *(self._samples, role, int(category)),
                int(turn) * self._each + each,
                self._seed,
            )
            for category, turn in zip(chosen, turns, strict=True)
        ]
        # Shuffle, so that each device gets samples of many categories.
        return rng.permutation(np.concatenate(rows))

    def _stand_ins(
        self,
        role: str,
        chosen: np.ndarray,
        count: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Returns `count` categories that have a role and are not `chosen`."""
        available = self._categories[role]
        begin = rng.integers(len(available))
        # At most P - count of these P categories are in the batch.
        window = (begin + np.arange(self._per_batch)) % len(available)
        candidates = available[window]
        return candidates[~np.isin(candidates, chosen)][:count]
