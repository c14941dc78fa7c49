"""What is wrong with events is said in a sentence, and nothing is written."""

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


def refused(aggregate, files, out, said, **settings):
    before = {path.name for path in out.iterdir()}
    with pytest.raises(UserError, match=said) as error:
        aggregate(files, out, **settings)
    assert {path.name for path in out.iterdir()} == before
    return str(error.value)


def test_what_is_left_out_is_listed_above_a_share(aggregate, out):
    rows = [f"q0,i0,{NOON + i},1" for i in range(88)]
    rows += ["q0,i0,noon,1", f"q0,,{NOON},1"]
    rows += [f"q9,i0,{NOON},1"] * 4 + [f"q0,i9,{NOON},1"] * 6
    path = write(out, rows)
    said = refused(aggregate, [path], out, "2 of 100 events are bad rows")
    assert "events.csv, line 90: time is 'noon'" in said
    assert "events.csv, line 91: item_id is empty." in said
    said = refused(
        aggregate,
        [path],
        out,
        "10 of 100 events name an ID that is not in",
        max_skipped=0.02,
    )
    assert "query_id 'q9': 4 events" in said
    assert "item_id 'i9': 6 events" in said
    figures = aggregate([path], out, max_skipped=0.1)
    assert (figures["bad_rows"], figures["clicks_exposures"]) == (2, 88)


def test_files_that_cannot_be_used_are_listed(aggregate, out):
    good = write(out, [f"q0,i0,{NOON},1"])
    (out / "a.csv").write_text("query_id,item_id,clicked\nq0,i0,1\n")
    (out / "b.parquet").write_bytes(b"nothing")
    packed = gzip.compress(good.read_bytes() * 2000)
    (out / "c.csv.gz").write_bytes(packed[: len(packed) // 2])
    (out / "items.csv").write_text("name\nx\n")
    files = [good, out / "a.csv", out / "b.parquet", out / "c.csv.gz"]
    said = refused(aggregate, files, out, "These files cannot be used")
    assert "a.csv has no column 'time'" in said
    assert "b.parquet cannot be read" in said
    assert "c.csv.gz cannot be read to its end" in said
    assert "items.csv has no column 'item_id'" in said


def test_what_is_missing_is_said(aggregate, out):
    refused(aggregate, [out / "no-*.csv"], out, "no file of events")
    refused(aggregate, [write(out, [], "x.txt")], out, "is of no kind")
    refused(aggregate, [write(out, [])], out, "The files hold no events")
    path = write(out, [f"q0,i0,{NOON},1"])
    late = (NOON - 1) * 10**6
    refused(aggregate, [path], out, "all are later than --until", until=late)
    (out / "clicks.csv").write_text("")
    refused(aggregate, [path], out, r"clicks\.csv exists already")
    (out / "clicks.csv").unlink()
    (out / "queries.csv").unlink()
    refused(aggregate, [path], out, r"neither queries\.csv nor")


def test_parts_may_be_elsewhere_and_go(aggregate, out, tmp_path_factory):
    path, parts = write(out, [f"q0,i0,{NOON},1"]), tmp_path_factory.mktemp("p")
    until = (NOON + 1) * 10**6
    aggregate([path], out, parts=str(parts), until=until)
    assert list(parts.iterdir()) == []
    assert (out / "clicks_later.parquet").exists()
    (out / "queries.csv").rename(out / "other.csv")
    # The table of items is a folder of parts, which Spark wrote.
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
    refused(aggregate, [path], out, r"clicks\.parquet exists already")


def test_a_file_that_is_there_is_no_pattern(aggregate, out):
    path = write(out, [f"q0,i0,{NOON},1"], "events[1]*.csv")
    write(out, [f"q0,i0,{NOON + 1},1"], "events1.csv")
    figures = aggregate([path], out)
    assert (figures["files"], figures["clicks_exposures"]) == (1, 1)
    refused(aggregate, [out / "x[1].csv"], out, r"\[\[\] matches \[")


def test_a_folder_that_beam_takes_for_a_pattern_is_refused(
    aggregate, out, tmp_path_factory
):
    path = write(out, [f"q0,i0,{NOON},1"])
    odd = out / "log[1]"
    odd.mkdir()
    for name in ("queries.csv", "items.csv"):
        (out / name).rename(odd / name)
    refused(aggregate, [path], odd, "--parts")
    parts = tmp_path_factory.mktemp("parts")
    aggregate([path], odd, parts=str(parts))
    assert (odd / "clicks.parquet").is_file()
    assert list(parts.iterdir()) == []


def test_events_are_not_replaced_by_clicks(aggregate, out):
    rows = {"query_id": ["q0"], "item_id": ["i0"], "time": [NOON]}
    for name in ("clicks.parquet", "clicks_later.parquet"):
        table = pa.table(rows | {"clicked": [1]})
        pq.write_table(table, out / name)
        refused(aggregate, [out / name], out, f"{name} would be replaced")
        refused(aggregate, [out / "cl*.parquet"], out, "copy it to another")
        (out / name).unlink()
