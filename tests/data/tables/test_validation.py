import gc
import time
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mixer_jax.data.tables import rules, table, validation
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables

SMALL = {"rows": 4, "block": 400}


def rows(count, start=0):
    """Rows with three samples per category; some texts span lines."""
    return pd.DataFrame(
        [
            (
                f"s{i}",
                rules.QUERY if i % 3 == 0 else rules.DOCUMENT,
                f"{i}.png",
                "" if i % 3 == 0 else "a text\nof two lines, " * (i % 3 - 1),
                f"c{i // 3}",
                "",
                "train" if i // 3 % 2 else "test/new",
            )
            for i in range(start, start + count)
        ],
        columns=rules.COLUMNS,
        dtype=str,
    )


def write(path, frame):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.fixture(params=["t.csv", "t.parquet"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_counts_samples_categories_and_splits(path):
    frame = rows(60)
    frame.loc[59, "image"] = ""
    write(path, frame)
    report = validation.check(path, **SMALL)
    assert report == validation.check(path)
    assert (report.samples, report.categories) == (60, 20)
    assert list(report.splits) == ["test/new", "train"]
    assert report.splits["train"] == validation.SplitCounts(
        queries=10,
        documents=20,
        textless=10,
        imageless=1,
        categories=10,
        unanswered=0,
    )
    assert (report.lone, report.cross_split, report.notes()) == (0, 0, [])


def test_notes_problems_of_training_and_evaluation(path):
    frame = rows(60)
    frame.loc[len(frame)] = ["x", "query", "x", "", "alone", "", "train"]
    frame.loc[len(frame)] = ["y", "query", "y", "", "nobody", "", "test/new"]
    frame.loc[len(frame)] = ["z", "query", "z", "", "c0", "", "train"]
    frame.loc[len(frame)] = ["w", "query", "w", "", "c0", "", "test/old"]
    # Training uses all parts of train together.
    for i in "tu":
        frame.loc[len(frame)] = [i, "query", i, "", "two", "", f"train/{i}"]
    write(path, frame)
    report = validation.check(path, **SMALL)
    # x and z are alone in train; c0 is in test/new, test/old and train.
    assert (report.lone, report.cross_split) == (2, 1)
    unanswered = {a: b.unanswered for a, b in report.splits.items()}
    assert unanswered == {
        "test/new": 1,
        "test/old": 1,
        "train": 2,
        "train/t": 1,
        "train/u": 1,
    }
    notes = report.notes()
    assert len(notes) == 5
    assert notes[0].startswith("1 categories are in several splits")
    assert notes[1].startswith("2 training samples are the only ones")
    assert notes[2].startswith("1 training categories have only queries")
    assert notes[3].startswith("1 queries of test/new have no document")


def test_notes_look_alike_category_ids(path):
    frame = rows(60)
    frame.loc[50:, "category_id"] += " "
    frame.loc[3, "category_id"] = "C1"
    write(path, frame)
    report = validation.check(path, **SMALL)
    assert report == validation.check(path)
    # All IDs from row 50 on end in a space; only c1 and c16 have two forms.
    assert report.alike == 2
    assert report.alike_examples == (("C1", "c1"), ("c16", "c16 "))
    (note,) = [note for note in report.notes() if "differ from" in note]
    assert "'c1' and 'C1', 'c16 ' and 'c16'" in note


BREAKS = {
    "no ID": ("sample_id", ""),
    "repeated ID": ("sample_id", "s3"),
    "ID that an array would truncate": ("sample_id", "\0"),
    "role": ("role", "qeury"),
    "category": ("category_id", ""),
    "image": ("image", "../x"),
    "split": ("split", "a b"),
}


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("at", [5, 41, (20, 41, 59)])
def test_reports_the_same_fault_as_validate(path, kind, at):
    column, value = BREAKS[kind]
    frame = rows(60)
    frame.loc[np.atleast_1d(at), column] = value
    write(path, frame)
    with pytest.raises(UserError) as whole:
        table.read_table(path)
    with pytest.raises(UserError) as streamed:
        validation.check(path, **SMALL)
    assert str(streamed.value).split("\n")[0] == str(whole.value)
    assert ("more rows" in str(whole.value)) == (at == (20, 41, 59))


def test_all_broken_rules_are_listed_in_order(path):
    frame = rows(60)
    frame.loc[50, "role"] = "x"
    frame.loc[10, "split"] = "a b"
    frame.loc[30, "sample_id"] = "s7"
    write(path, frame)
    with pytest.raises(UserError) as caught:
        validation.check(path, **SMALL)
    lines = str(caught.value).split("\n")
    named = [line.split("column ")[1].split(":")[0] for line in lines]
    assert named == ["sample_id", "role", "split"]
    if path.suffix == ".parquet":
        assert lines[0].startswith(f"{path}, row 31, column sample_id")


def test_repeated_ids_are_counted_over_several_passes(path, monkeypatch):
    monkeypatch.setattr(validation, "_COMPARED", 3)
    frame = pd.concat([rows(30), rows(30)], ignore_index=True)
    write(path, frame)
    with pytest.raises(UserError) as whole:
        table.read_table(path)
    with pytest.raises(UserError) as streamed:
        validation.check(path, **SMALL)
    assert str(streamed.value) == str(whole.value)
    assert "'s0'" in str(whole.value)
    assert "(and 29 more rows)" in str(whole.value)


def test_hash_collisions_are_not_faults(path, monkeypatch):
    def hashes(cells):
        return np.array([len(cell) for cell in cells], np.uint64)

    monkeypatch.setattr(validation, "hash_cells", hashes)
    write(path, rows(60))
    assert validation.check(path, **SMALL).samples == 60
    frame = rows(60)
    frame.loc[50, "sample_id"] = "s44"
    write(path, frame)
    with pytest.raises(
        UserError, match="the same ID 's44'; IDs must be unique"
    ):
        validation.check(path, **SMALL)


def test_missing_and_empty_images_are_counted(path):
    frame = rows(60)
    frame.loc[59, "image"] = ""
    write(path, frame)
    for i in range(58):
        (path.parent / f"{i}.png").write_bytes(b"image")
    (path.parent / "8.PNG").write_bytes(b"image")
    (path.parent / "7.png").write_bytes(b"")
    (path.parent / "8.png").unlink()
    report = validation.check(path, images=True, max_skipped=0.05, **SMALL)
    missing = report.missing
    assert (missing.count, missing.total) == (3, 60)
    assert "'7.png' is missing or empty" in missing.examples[0]
    assert missing.examples[1].endswith("Did you mean '8.PNG'?")
    where = ", row 8:" if path.suffix == ".parquet" else ", line 11:"
    assert where in missing.examples[0]
    assert "3 of 60 samples skipped" in report.notes()[-1]
    for threads in (1, 8):
        with pytest.raises(UserError, match=r"3 of 60 samples .* 0.0499"):
            validation.check(
                path, images=True, max_skipped=0.0499, threads=threads, **SMALL
            )
    assert validation.check(path, **SMALL).missing is None


def test_only_ten_missing_images_are_listed(path):
    write(path, rows(60))
    with pytest.raises(UserError) as caught:
        validation.check(path, images=True, max_skipped=0.5, **SMALL)
    assert str(caught.value).count("is missing or empty") == 10
    assert "50 more" in str(caught.value)


def test_present_accepts_any_path(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    got = validation.present(tmp_path, ["a", "", "b", "a\0b", "."] * 200)
    assert got.tolist()[:4] == [True, True, False, False]
    assert len(got) == 1000


def test_empty_table_raises_an_error(path):
    write(path, rows(0))
    with pytest.raises(UserError, match="has no rows, only a header"):
        validation.check(path)
    with pytest.raises(UserError, match="no sample table at"):
        validation.check(path.parent / "none.csv")


@pytest.fixture
def collected(monkeypatch):
    """Frees each batch before the next; pandas creates reference cycles."""
    batches = tables.batches

    def collect(*args, **sizes):
        for batch in batches(*args, **sizes):
            yield batch
            gc.collect()

    gc.freeze()  # exempts existing objects from collection
    monkeypatch.setattr(tables, "batches", collect)
    yield
    gc.unfreeze()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_grows_by_few_bytes_per_row(tmp_path, suffix, collected):
    peaks = []
    for count in (2_000, 12_000):
        path = write(tmp_path / f"{count}.{suffix}", wide(count))
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        report = validation.check(path, rows=500, block=100_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.samples == count
        assert pa.total_allocated_bytes() - before < 1_000_000
    # A row has 300 bytes, of which 16 are kept, and briefly more at the end.
    assert peaks[1] - peaks[0] < 10_000 * 64


def wide(count):
    i = pd.Series(range(count)).astype(str)
    return pd.DataFrame(
        {
            "sample_id": "s" + i,
            "role": rules.DOCUMENT,
            "image": "i/" + i + ".png",
            "text": ("text " + i).str.ljust(250, "."),
            "category_id": "c" + i.str[:-1],
            "group": "",
            "split": "train",
        }
    )


def test_many_splits_are_counted_and_few_are_listed(path):
    count = 20_000
    frame = wide(count).assign(role=rules.QUERY, text="")
    frame["split"] = frame["sample_id"]
    start = time.process_time()
    report = validation.check(write(path, frame))
    assert time.process_time() - start < 10
    assert len(report.splits) == count
    assert report.splits["s7"] == validation.SplitCounts(
        queries=1, categories=1, unanswered=1
    )
    assert report.console_table().row_count == 51
    assert len(report.notes()) == 12
    assert report.notes()[-1] == "19,990 other splits have such queries too."
