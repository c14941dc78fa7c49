import pathlib

import pytest

from mixer_jax.data.readers import sample_table
from mixer_jax.data.readers.rows import LeftOut, Row
from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import is_test
from mixer_jax.runtime.errors import UserError

TRAIN = next(f"c{i}" for i in range(99) if not is_test(f"c{i}"))
TEST = next(f"c{i}" for i in range(99) if is_test(f"c{i}"))


def row(name, category=TRAIN, **cells):
    return Row(name, cells.pop("image", name), "text", category, **cells)


def make(root, *rows, out="table.csv", images=True, **options):
    """Builds a table of rows, after writing their images."""
    for one in rows:
        if one.image and images:
            (root / one.image).parent.mkdir(parents=True, exist_ok=True)
            (root / one.image).write_bytes(b"image")
    summary = sample_table.build(rows, root, root / out, LeftOut(), **options)
    return table.read_table(root / out), summary


def test_splits_roles_and_texts_are_filled_in(tmp_path):
    rows = [row(f"{c}{i}", c) for c in (TRAIN, TEST) for i in range(4)]
    frame, summary = make(tmp_path, *rows)
    assert frame["sample_id"].tolist() == [one.sample_id for one in rows]
    assert frame["split"].tolist() == ["train"] * 4 + ["test"] * 4
    for _, part in frame.groupby("split"):
        assert (part["role"] == "query").sum() == 2
    is_query = frame["role"] == "query"
    assert set(frame["text"][is_query]) == {""}
    assert set(frame["text"][~is_query]) == {"text"}
    assert str(summary) == (
        "8 samples of 2 categories: test 2 queries and 2 documents, train 2 "
        "queries and 2 documents; left out: none"
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_batch_size_does_not_change_rows(tmp_path, monkeypatch, suffix):
    rows = [
        row(f"a,{i}", f"c{i // 3}", group='g "x"')._replace(
            text=f" größe\n \t{i} ✓, ", role="document"
        )
        for i in range(30)
    ]
    want, _ = make(tmp_path, *rows)
    monkeypatch.setattr(sample_table, "_ROWS", 7)
    frame, _ = make(tmp_path, *rows, out=f"b/t.{suffix}")
    assert frame.equals(want)
    assert want["text"][4] == "größe 4 ✓,"
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 31
    assert [one.name for one in (tmp_path / "b").iterdir()] == [f"t.{suffix}"]


def test_left_out_samples_are_counted_by_reason(tmp_path):
    rows = [
        row("a"),
        row("b"),
        row("a", image="other"),
        row("shown", image="s"),
        row("shows", TEST, image="s"),
        row("answer", TEST),
        row("lone", "lone" if not is_test("lone") else "alone"),
    ]
    (tmp_path / "empty").touch()
    gone = [row("gone"), row("empty")]
    for one in rows:
        (tmp_path / one.image).write_bytes(b"image")
    frame, summary = make(tmp_path, *rows, *gone, images=False)
    assert frame["sample_id"].tolist() == ["a", "b", "shows", "answer"]
    assert frame["image"].tolist()[0] == "a"
    assert dict(summary.left_out) == {
        "with a repeated ID": 1,
        "with a missing or empty image file": 2,
        "from train with an image of another split": 1,
        "from train without another sample in their category": 1,
    }
    assert "left out: with a repeated ID (1), with a missing" in str(summary)


def test_lone_test_sample_is_kept_as_a_document(tmp_path):
    frame, _ = make(tmp_path, row("a"), row("b"), row("x", TEST))
    assert frame.iloc[2].tolist()[:2] == ["x", "document"]


def test_image_check_is_optional(tmp_path):
    rows = [row("a"), row("b")]
    with pytest.raises(UserError, match="None of the 2 image files exists"):
        make(tmp_path, *rows, images=False)
    frame, _ = make(tmp_path, *rows, images=False, check_images=False)
    assert len(frame) == 2


def test_image_of_several_categories_is_never_a_query(tmp_path):
    other = next(f"d{i}" for i in range(99) if not is_test(f"d{i}"))
    rows = [
        row(
            f"{category}{i}",
            category,
            image="s" if i == 0 else f"{category}{i}",
        )
        for category in (TRAIN, other)
        for i in range(3)
    ]
    frame, _ = make(tmp_path, *rows)
    assert set(frame["role"][frame["image"] == "s"]) == {"document"}
    assert frame.groupby("category_id")["role"].nunique().tolist() == [2, 2]


def test_given_splits_and_roles_are_kept(tmp_path):
    rows = [
        row("a", "x", split="val/new", role="query"),
        row("b", "x", split="val/old", role="document"),
        row("c", "y", split="train"),
        row("d", "y", split="train"),
        row("words", "y", image="", split="train"),
    ]
    frame, _ = make(tmp_path, *rows)
    assert frame["split"].tolist()[:3] == ["val/new", "val/old", "train"]
    assert frame["role"].tolist()[:2] == ["query", "document"]
    assert frame["role"].tolist()[4] == "document"


def test_category_in_two_splits_raises_an_error(tmp_path):
    rows = [
        row(f"{name}{split}", name, split=split)
        for name in "xy"
        for split in ("train", "test")
    ]
    with pytest.raises(
        UserError, match=r"category 'x' \(and 1 more\) .* 'test' and 'train'"
    ):
        make(tmp_path, *rows)


def test_invalid_rows_raise_an_error_and_nothing_is_written(tmp_path):
    for wrong, message in (
        (row("b", image="../b"), "Sample 'b', column image: the path"),
        (
            row("b", "", role="document", split="train"),
            "a category is required",
        ),
        (row("b", "other", split="a b"), "the split is 'a b'"),
    ):
        two = (wrong, wrong._replace(sample_id="c"), row("a"))
        with pytest.raises(UserError, match=message):
            make(tmp_path, *two, check_images=False, images=False)
    assert not list(tmp_path.iterdir())


def test_no_usable_rows_raise_an_error(tmp_path):
    with pytest.raises(UserError, match="no samples in"):
        make(tmp_path)
    with pytest.raises(
        UserError, match=r"No category in .* two training samples"
    ):
        make(tmp_path, row("a"))


def test_lone_surrogates_in_texts_become_question_marks(tmp_path):
    rows = [row("a"), row("b")._replace(text="x\ud800y", role="document")]
    frame, _ = make(tmp_path, *rows)
    assert frame["text"][1] == "x?y"


def test_check_out_returns_the_prefix_of_image_paths(tmp_path):
    root = tmp_path / "a" / "set"
    root.mkdir(parents=True)
    assert sample_table.check_out(root, root, root / "t.csv", False) == ""
    out = tmp_path / "t.parquet"
    assert sample_table.check_out(root, root, out, False) == "a/set/"
    rows = [row("x"), row("y")._replace(image="")]
    (root / "x").write_bytes(b"image")
    sample_table.build(rows, root, out, LeftOut(), prefix="a/set/")
    assert table.read_table(out)["image"].tolist() == ["a/set/x", ""]
    with pytest.raises(UserError, match="already exists; give --overwrite"):
        sample_table.check_out(root, root, out, False)
    sample_table.check_out(root, root, out, True)
    for wrong, message in (
        (tmp_path / "b" / "t.csv", "refer to images inside its own folder"),
        (root / "t.txt", r"must be a \.csv or"),
    ):
        with pytest.raises(UserError, match=message):
            sample_table.check_out(root, root, wrong, False)
    none = pathlib.Path("none")
    with pytest.raises(UserError, match="--root=none is not a folder"):
        sample_table.check_out(none, none, out, False)


def test_check_out_resolves_links_only_if_needed(tmp_path):
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "set")
    root = tmp_path / "link"
    for out, prefix in (
        (root / ".." / "t.csv", "set/"),
        (tmp_path / "t.csv", "link/"),
        (root / "t.csv", ""),
    ):
        assert sample_table.check_out(root, root, out, False) == prefix


def test_error_without_samples_counts_the_left_out(tmp_path):
    left_out = LeftOut({"without a class": 3})
    with pytest.raises(UserError, match=r"left out: without a class \(3\)"):
        sample_table.build([], tmp_path, tmp_path / "t.csv", left_out)
    lone = Row("s", "", "text", _train_category())
    with pytest.raises(UserError, match=r"a class \(3\), from train without"):
        sample_table.build([lone], tmp_path, tmp_path / "t.csv", left_out)


def _train_category():
    return next(name for name in "abcdefgh" if not is_test(name))


def test_ids_that_differ_in_a_surrogate_stay_different(tmp_path):
    rows = [
        row(f"{name}{i}", image=f"{ord(name)}{i}")._replace(
            sample_id=f"{name}{i}", category_id=f"{TRAIN}{name}"
        )
        for name in ("\ud800", "\ud801")
        for i in range(2)
    ]
    frame, summary = make(tmp_path, *rows)
    assert summary.categories == 2
    assert len(frame) == 4
    assert frame["sample_id"][0] == r"\ud8000"
