import json

import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import identities
from mixer_jax.categories.identities import Previous, extend, name
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError


def _extend(now, before=None, highest=None, **remembered):
    """Extends categories, given as words whose letters are the samples."""
    number = {
        letter: n for n, word in enumerate(before or ()) for letter in word
    }
    top = len(before or ()) - 1 if highest is None else highest
    letters = sorted({letter for word in now for letter in word})
    label = {letter: n for n, word in enumerate(now) for letter in word}
    labels = np.array([label[letter] for letter in letters])
    given, changes = extend(letters, labels, Previous(number, remembered, top))
    return dict(zip(letters, given.tolist(), strict=True)), changes


def test_the_first_log_is_numbered_from_zero():
    given, changes = _extend(["ab", "cd"])
    assert given == dict(a=0, b=0, c=1, d=1)
    assert changes.appeared == [name(0), name(1)]
    assert changes.highest == 1


def test_the_same_log_keeps_all_ids():
    before = ["ab", "cde", "fg"]
    given, changes = _extend(before[::-1], before)
    assert given == dict(a=0, b=0, c=1, d=1, e=1, f=2, g=2)
    assert changes.kept == 3
    assert changes.highest == 2
    for left in (
        changes.appeared,
        changes.returned,
        changes.vanished,
        changes.merged,
        changes.split,
        changes.moved,
        changes.remembered,
    ):
        assert not left


def test_the_larger_part_of_a_split_keeps_the_id():
    given, changes = _extend(["ab", "cde"], ["abcde"])
    assert given["c"] == given["e"] == 0
    assert given["a"] == 1
    assert changes.split == {name(0): [name(1)]}
    assert changes.moved == {x: (name(0), name(1)) for x in "ab"}
    assert not changes.appeared


def test_a_merged_category_has_the_id_of_its_larger_part():
    given, changes = _extend(["abcde"], ["ab", "cde"])
    assert set(given.values()) == {1}
    assert changes.merged == {name(0): name(1)}
    assert changes.moved == {x: (name(0), name(1)) for x in "ab"}


def test_ties_go_to_the_older_id():
    given, _ = _extend(["abcd"], ["cd", "ab"])
    assert set(given.values()) == {0}


def test_new_categories_get_unused_numbers():
    # Category 1 vanished long ago; `highest` keeps its number reserved.
    given, changes = _extend(["ab", "xy"], ["ab"], highest=1)
    assert given["x"] == 2
    assert changes.appeared == [name(2)]
    assert changes.highest == 2


def test_vanished_categories_return():
    number, gone = dict(a=0, b=0, c=1, d=1), np.array([0, 0, -1, -1])
    _, changes = extend(list("abcd"), gone, Previous(number, {}, 1))
    assert changes.vanished == [name(1)]
    assert changes.moved == {x: (name(1), "") for x in "cd"}
    assert changes.remembered == dict(c=name(1), d=name(1))
    given, changes = _extend(["ab", "cd", "ef"], ["ab"], 1, c=1, d=1)
    assert given == dict(a=0, b=0, c=1, d=1, e=2, f=2)
    assert changes.returned == [name(1)]
    assert changes.appeared == [name(2)]
    assert not changes.remembered


def test_samples_missing_from_a_log_are_remembered():
    given, changes = _extend(["ab"], ["ab", "cd"])
    assert given == dict(a=0, b=0)
    assert changes.remembered == dict(c=name(1), d=name(1))
    assert changes.vanished == [name(1)]
    assert not changes.moved


def test_a_moved_sample_is_reported():
    given, changes = _extend(["ab", "cdef"], ["abc", "def"])
    assert given == dict(a=0, b=0, c=1, d=1, e=1, f=1)
    assert changes.moved == dict(c=(name(0), name(1)))
    assert changes.kept == 2
    assert not changes.split
    assert not changes.merged


def test_the_order_of_labels_does_not_matter():
    rng = np.random.default_rng(0)
    samples = [f"s{i}" for i in range(300)]
    old = rng.integers(-1, 60, size=300)
    number = {s: int(n) for s, n in zip(samples, old, strict=True) if n >= 0}
    new = rng.integers(-1, 50, size=300)
    renamed = rng.permutation(50)
    one, _ = extend(samples, new, Previous(number, {}, 59))
    again, changes = extend(
        samples, np.where(new >= 0, renamed[new], -1), Previous(number, {}, 59)
    )
    # Either of two equal parts may keep an ID, but each number belongs
    # to one category.
    assert ((new[:, None] == new) == (one[:, None] == one)).all()
    assert ((new[:, None] == new) == (again[:, None] == again)).all()
    moved = (old >= 0) & (old != again)
    assert set(changes.moved) == {samples[i] for i in np.flatnonzero(moved)}


def _table(ids):
    return pd.DataFrame(
        {"sample_id": list(ids), "category_id": list(ids.values())}
    )


def test_ids_survive_writing_and_reading(tmp_path):
    path = tmp_path / "found.csv"
    rows = _table(dict(a="x", b="x", c="y", d="y"))
    left = pd.DataFrame({"sample_id": ["e"]})
    rows, changes = identities.rename(rows, left, Previous())
    turned = rows.assign(sample_id="reverse:" + rows["sample_id"])
    test = _table(dict(t="true"))
    pd.concat([rows, turned, test]).to_csv(path, index=False)
    files.write(tmp_path / identities.LEDGER, changes.writer())
    before = identities.read_previous(path)
    assert before == Previous(dict(a=0, b=0, c=1, d=1), {}, 1)

    fewer = _table(dict(e="p", f="p", a="q", b="q"))
    left = pd.DataFrame({"sample_id": ["c", "d"]})
    rows, changes = identities.rename(fewer, left, before)
    assert rows["category_id"].tolist() == [name(2)] * 2 + [name(0)] * 2
    rows.to_csv(path, index=False)
    files.write(tmp_path / identities.LEDGER, changes.writer())
    third = identities.read_previous(path)
    assert third.remembered == dict(c=1, d=1)
    assert third.highest == 2
    assert "1 kept, 1 appeared, 0 returned, 1 vanished" in str(changes)


def test_no_previous_table():
    assert identities.read_previous(None) == Previous()


def test_invalid_previous_tables_raise_an_error(tmp_path):
    path = tmp_path / "found.csv"
    with pytest.raises(UserError, match="no table"):
        identities.read_previous(path)
    _table(dict(a="shoes")).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"--previous must be a found\.csv"):
        identities.read_previous(path)
    _table(dict(a=name(3))).to_csv(path, index=False)
    ledger = tmp_path / identities.LEDGER
    for damaged in ("{", "[]", "{}", json.dumps(dict(highest=9))):
        ledger.write_text(damaged)
        with pytest.raises(UserError, match=r"identities\.json is not the"):
            identities.read_previous(path)
    ledger.write_text(json.dumps(dict(highest=9, remembered={"b": "nine"})))
    with pytest.raises(UserError, match=r"identities\.json"):
        identities.read_previous(path)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["a,found-00001", "b,found-99999999999999999999"], "line 3.*too"),
        (["a,found-00001", f"b,found-{'9' * 6000}"], "line 3.*too large"),
        (
            ["a,found-00001", "a,found-00002"],
            "line 3.*'a' has the category found-00002, but found-00001 in an",
        ),
        (["a,found-\u0661"], "has no category"),
    ],
)
def test_invalid_previous_ids_raise_an_error(tmp_path, cells, problem):
    path = tmp_path / "found.csv"
    path.write_text("\n".join(["sample_id,category_id", *cells]) + "\n")
    with pytest.raises(UserError, match=problem):
        identities.read_previous(path)


@pytest.mark.parametrize(
    "ledger",
    [
        '{"highest": 1e999, "remembered": {}}',
        '{"highest": 99999999999999999999, "remembered": {}}',
        '{"highest": 1, "remembered": {"b": "found-99999999999999999999"}}',
    ],
)
def test_ledgers_with_too_large_numbers_raise_an_error(tmp_path, ledger):
    path = tmp_path / "found.csv"
    path.write_text("sample_id,category_id\na,found-00001\n")
    (tmp_path / identities.LEDGER).write_text(ledger)
    with pytest.raises(UserError, match="is not the ledger"):
        identities.read_previous(path)


def test_a_missing_ledger_is_noted(tmp_path):
    path = tmp_path / "moved.csv"
    path.write_text("sample_id,category_id\na,found-00004\n")
    before = identities.read_previous(path)
    assert before.highest == 4
    assert str(tmp_path / identities.LEDGER) in before.note
    assert "--previous" in before.note
    (tmp_path / identities.LEDGER).write_text(
        '{"highest": 9, "remembered": {}}'
    )
    before = identities.read_previous(path)
    assert (before.highest, before.note) == (9, "")


def test_a_sample_named_like_a_reversed_one_keeps_its_id(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text(
        "sample_id,category_id,split\n"
        "reverse:a,found-00001,train/forward\n"
        "b,found-00001,train/forward\n"
        "reverse:reverse:a,found-00001,train/reverse\n"
        "reverse:b,found-00001,train/reverse\n"
    )
    assert identities.read_previous(path).number == {"reverse:a": 1, "b": 1}


def test_previous_ids_that_became_floats_raise_an_error():
    before = Previous({"1.0": 0, "2.0": 0})
    with pytest.raises(UserError, match=r"'1' of .* --previous, which has"):
        identities.check_log(before, ["1", "2"])
    identities.check_log(before, ["3", "4"])
    identities.check_log(before, ["1", "2.0"])
    identities.check_log(Previous(), ["1"])
