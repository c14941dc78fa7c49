"""Samplers: category shares, and random access to positions."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixer_jax.data.stream import sampling
from mixer_jax.data.stream.sampling import (
    BALANCED,
    TEMPERED,
    UNIFORM,
    Sampling,
)
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.runtime.errors import UserError

# A long tail; category 3 has only documents, and category 4 only queries.
COUNTS = {
    "query": [80, 24, 9, 0, 4, 2, 1],
    "document": [50, 20, 8, 12, 0, 2, 1],
}


def make_samples(counts=COUNTS, seed=0):
    """Returns samples in random order."""
    labels = np.concatenate(
        [np.repeat(np.arange(len(c)), c) for c in counts.values()]
    )
    roles = np.repeat(list(counts), [sum(c) for c in counts.values()])
    order = np.random.default_rng(seed).permutation(len(labels))
    frame = pd.DataFrame({"role": roles[order], "image": "", "text": ""})
    frame["category_id"] = [f"c{label}" for label in labels[order]]
    return samples_lib.from_frame(frame)


def make_streams(name, batch_size=8, seed=0, counts=COUNTS, **options):
    samples = make_samples(counts)
    choice = Sampling(name, **options)
    drawn = sampling.streams(choice, samples, batch_size, seed)
    return drawn, samples.labels


def read_epochs(stream, length, count):
    return np.array([stream[i] for i in range(length * count)]).reshape(
        count, length
    )


def read_tempered(role, temperature, count):
    """Returns unshuffled epochs, because Grain shuffles short ones slowly."""
    samples = make_samples()
    length = len(samples.of_role(role))
    drawn = sampling.Tempered(samples, role, temperature, seed=3)
    places = np.arange(length * count) % length
    got = [drawn.row(index, place) for index, place in enumerate(places)]
    return np.array(got).reshape(count, length), samples.labels


@pytest.mark.parametrize("role", COUNTS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_categories_occur_by_their_share(role, temperature):
    rows, labels = read_tempered(role, temperature, 40)
    counts = np.array(COUNTS[role])
    length = counts.sum()
    shares = np.where(counts, counts ** (1 / temperature), 0.0)
    shares /= shares.sum()
    present = counts > 0
    seen = np.bincount(labels[rows.ravel()], minlength=len(counts))
    assert not seen[~present].any()
    law = stats.chisquare(seen[present], (rows.size * shares)[present])
    assert law.pvalue > 0.01
    # Each epoch deviates only by rounding.
    for epoch in rows:
        seen = np.bincount(labels[epoch], minlength=len(counts))
        assert (np.abs(seen - length * shares) < 1).all()


def test_shares_differ_from_those_of_another_temperature():
    rows, labels = read_tempered("query", 2.0, 40)
    counts = np.array(COUNTS["query"])
    seen = np.bincount(labels[rows.ravel()], minlength=len(counts))
    present = counts > 0
    shares = counts[present] ** (1 / 1.5)
    wanted = rows.size * shares / shares.sum()
    assert stats.chisquare(seen[present], wanted).pvalue < 1e-6


@pytest.mark.parametrize("name", [UNIFORM, TEMPERED])
def test_every_sample_occurs_once_per_epoch_at_temperature_one(name):
    drawn, _ = make_streams(name, temperature=1.0)
    for role in COUNTS:
        own = make_samples().of_role(role)
        seen = read_epochs(drawn[role], len(own), 3)
        for epoch in seen:
            assert sorted(epoch) == own.tolist()
        assert (seen[0] != seen[1]).any()
        assert (seen[1] != seen[2]).any()


def test_high_temperature_samples_categories_equally():
    rows, labels = read_tempered("query", 1e9, 3)
    counts = np.array(COUNTS["query"])
    for epoch in rows:
        seen = np.bincount(labels[epoch], minlength=len(counts))
        assert np.ptp(seen[counts > 0]) <= 1


def test_samples_of_a_category_take_turns():
    rows, labels = read_tempered("query", 4.0, 30)
    for category, count in enumerate(COUNTS["query"]):
        if count:
            own = rows[labels[rows] == category]
            seen = np.unique(own, return_counts=True)[1]
            assert len(seen) == count
            # An epoch sometimes ends a turn too early or too late.
            assert np.ptp(seen) <= 3 + seen.mean() / 10


@pytest.mark.parametrize("name", sampling.NAMES)
def test_row_depends_only_on_seed_and_position(name):
    def draw(seed):
        choice = {"samples": 2, "temperature": 3.0}
        return make_streams(name, seed=seed, **choice)[0]

    first = draw(5)
    far = [0, 1, 499, 1234, 10**6, 10**9 + 7]
    for role, stream in first.items():
        want = [stream[i] for i in far]
        again = draw(5)[role]
        assert [again[i] for i in reversed(far)] == want[::-1]
        copied = pickle.loads(pickle.dumps(again))
        assert [copied[i] for i in far] == want
        other = draw(6)[role]
        assert [other[i] for i in range(50)] != [stream[i] for i in range(50)]


def read_batches(drawn, half, count):
    """Returns batches of both roles, int [count, half]."""
    return {
        role: read_epochs(stream, half, count) for role, stream in drawn.items()
    }


def test_balanced_batch_has_equal_counts_per_category():
    counts = {"query": [9, 5, 7, 4, 3, 8], "document": [4, 6, 3, 3, 9, 5]}
    drawn, labels = make_streams(BALANCED, 12, counts=counts, samples=3)
    batches = read_batches(drawn, 6, 36)
    for query, document in zip(*batches.values(), strict=True):
        kinds, seen = np.unique(labels[query], return_counts=True)
        assert seen.tolist() == [3, 3]
        assert set(labels[document]) == set(kinds)
        assert len(set(query)) == len(set(document)) == 6
    for role, rows in batches.items():
        # Three batches form an epoch, which contains each category once.
        kinds = np.sort(labels[rows].reshape(-1, 18), axis=1)
        np.testing.assert_array_equal(
            kinds, np.tile(np.repeat(np.arange(6), 3), (12, 1))
        )
        assert len({tuple(sorted(set(labels[row]))) for row in rows}) > 8
        assert set(rows.ravel()) == set(make_samples(counts).of_role(role))
        # The categories are mixed within a batch.
        assert (np.diff(labels[rows], axis=1) != 0).sum() > 2 * len(rows)


def test_categories_with_few_samples_repeat_them():
    counts = {"query": [2, 9], "document": [9, 1]}
    drawn, labels = make_streams(BALANCED, 8, counts=counts, samples=4)
    for row in read_batches(drawn, 4, 4)["query"]:
        (kind,) = set(labels[row])
        assert len(set(row)) == (2 if kind == 0 else 4)


def test_another_category_replaces_one_that_lacks_a_role():
    drawn, labels = make_streams(BALANCED, 12, samples=2)
    queries, documents = read_batches(drawn, 6, 40).values()
    stood_in = 0
    for query, document in zip(queries, documents, strict=True):
        kinds = [
            np.unique(labels[x], return_counts=True) for x in (query, document)
        ]
        for _, seen in kinds:
            assert seen.tolist() == [2, 2, 2]
        (query_kinds, _), (document_kinds, _) = kinds
        assert 3 not in query_kinds
        assert 4 not in document_kinds
        if 3 in document_kinds and 4 not in query_kinds:
            assert len(set(query_kinds) - set(document_kinds)) == 1
            stood_in += 1
        elif 4 not in query_kinds:
            assert set(query_kinds) == set(document_kinds)
    assert stood_in > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "unifrom"}, "data.sampler is 'unifrom'.*tempered, balanced"),
        ({"name": TEMPERED, "temperature": 0.5}, "data.temperature is 0.5"),
        ({"name": TEMPERED, "temperature": float("nan")}, "data.temperature"),
        ({"name": BALANCED, "samples": 0}, "samples_per_category is 0"),
        (
            {"name": BALANCED, "samples": 3},
            "must divide half the batch, 4 samples",
        ),
        (
            {"name": BALANCED, "samples": 1, "batch_size": 28},
            "needs 14 categories with a query; there are only 6",
        ),
    ],
)
def test_invalid_settings_raise_an_error(options, message):
    with pytest.raises(UserError, match=message):
        make_streams(**options)
