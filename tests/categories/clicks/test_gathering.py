"""Invalid events raise a clear error, and nothing is written."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixer_jax.runtime.errors import UserError

NOON = 1_767_268_800
HEADER = "query_id,item_id,time,clicked\n"


@pytest.fixture
def out(tmp_path):
    (tmp_path / "queries.csv").write_text("query_id,image\nq0,q.png\n")
    (tmp_path / "items.csv").write_text("item_id,image,text\ni0,,a\n")
    return tmp_path


def write(out, rows, name="events.csv"):
    (out / name).write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return out / name


def assert_refused(aggregate, files, out, message, **settings):
    before = {path.name for path in out.iterdir()}
    with pytest.raises(UserError, match=message) as error:
        aggregate(files, out, **settings)
    assert {path.name for path in out.iterdir()} == before
    return str(error.value)


def test_too_many_skipped_events_are_listed(aggregate, out):
    rows = [f"q0,i0,{NOON + i},1" for i in range(88)]
    rows += ["q0,i0,noon,1", f"q0,,{NOON},1"]
    rows += [f"q9,i0,{NOON},1"] * 4 + [f"q0,i9,{NOON},1"] * 6
    path = write(out, rows)
    message = assert_refused(
        aggregate, [path], out, "2 of 100 events are bad rows"
    )
    assert "events.csv, line 90: time is 'noon'" in message
    assert "events.csv, line 91: item_id is empty." in message
    message = assert_refused(
        aggregate,
        [path],
        out,
        "10 of 100 events have an ID that is not in",
        max_skipped=0.02,
    )
    assert "query_id 'q9': 4 events" in message
    assert "item_id 'i9': 6 events" in message
    figures = aggregate([path], out, max_skipped=0.1)
    assert (figures["bad_rows"], figures["clicks_exposures"]) == (2, 88)


def test_unusable_files_are_listed(aggregate, out):
    good = write(out, [f"q0,i0,{NOON},1"])
    (out / "a.csv").write_text("query_id,item_id,clicked\nq0,i0,1\n")
    (out / "b.parquet").write_bytes(b"nothing")
    packed = gzip.compress(good.read_bytes() * 2000)
    (out / "c.csv.gz").write_bytes(packed[: len(packed) // 2])
    (out / "items.csv").write_text("name\nx\n")
    files = [good, out / "a.csv", out / "b.parquet", out / "c.csv.gz"]
    message = assert_refused(
        aggregate, files, out, "These files cannot be used"
    )
    assert "a.csv has no column 'time'" in message
    assert "b.parquet cannot be read" in message
    assert "c.csv.gz cannot be read completely" in message
    assert "items.csv has no column 'item_id'" in message


def test_missing_inputs_raise_an_error(aggregate, out):
    assert_refused(aggregate, [out / "no-*.csv"], out, "No event files match")
    assert_refused(
        aggregate, [write(out, [], "x.txt")], out, "has an unknown suffix"
    )
    assert_refused(
        aggregate, [write(out, [])], out, "The files contain no events"
    )
    path = write(out, [f"q0,i0,{NOON},1"])
    late = (NOON - 1) * 10**6
    assert_refused(
        aggregate, [path], out, "all are later than --until", until=late
    )
    (out / "clicks.csv").write_text("")
    assert_refused(aggregate, [path], out, r"clicks\.csv already exists")
    (out / "clicks.csv").unlink()
    (out / "queries.csv").unlink()
    assert_refused(aggregate, [path], out, r"neither queries\.csv nor")


def test_parts_may_be_elsewhere_and_are_removed(
    aggregate, out, tmp_path_factory
):
    path, parts = write(out, [f"q0,i0,{NOON},1"]), tmp_path_factory.mktemp("p")
    until = (NOON + 1) * 10**6
    aggregate([path], out, parts=str(parts), until=until)
    assert list(parts.iterdir()) == []
    assert (out / "clicks_later.parquet").exists()
    (out / "queries.csv").rename(out / "other.csv")
    # Write the items as a folder of Parquet files, as Spark does.
    (out / "items.csv").unlink()
    (out / "items.parquet").mkdir()
    (out / "items.parquet" / "_SUCCESS").touch()
    for number in range(2):
        items = pa.table({"item_id": [f"i{number}".encode()], "text": ["a"]})
        pq.write_table(items, out / f"items.parquet/part-{number}.parquet")
    figures = aggregate([path], out, queries=str(out / "other.csv"))
    assert figures["clicks_pairs"] == 1
    assert not (out / "clicks_later.parquet").exists()
    (out / "clicks.parquet").unlink()
    (out / "clicks.parquet").mkdir()
    assert_refused(aggregate, [path], out, r"clicks\.parquet already exists")


def test_an_existing_file_is_not_a_pattern(aggregate, out):
    path = write(out, [f"q0,i0,{NOON},1"], "events[1]*.csv")
    write(out, [f"q0,i0,{NOON + 1},1"], "events1.csv")
    figures = aggregate([path], out)
    assert (figures["files"], figures["clicks_exposures"]) == (1, 1)
    assert_refused(
        aggregate, [out / "x[1].csv"], out, r"\[\[\] matches a literal \["
    )


def test_a_folder_that_looks_like_a_pattern_is_refused(
    aggregate, out, tmp_path_factory
):
    path = write(out, [f"q0,i0,{NOON},1"])
    odd = out / "log[1]"
    odd.mkdir()
    for name in ("queries.csv", "items.csv"):
        (out / name).rename(odd / name)
    assert_refused(aggregate, [path], odd, "--parts")
    parts = tmp_path_factory.mktemp("parts")
    aggregate([path], odd, parts=str(parts))
    assert (odd / "clicks.parquet").is_file()
    assert list(parts.iterdir()) == []


def test_event_files_are_not_overwritten(aggregate, out):
    rows = {"query_id": ["q0"], "item_id": ["i0"], "time": [NOON]}
    for name in ("clicks.parquet", "clicks_later.parquet"):
        table = pa.table(rows | {"clicked": [1]})
        pq.write_table(table, out / name)
        assert_refused(
            aggregate, [out / name], out, f"{name} would be replaced"
        )
        assert_refused(
            aggregate, [out / "cl*.parquet"], out, "copy the file to another"
        )
        (out / name).unlink()
