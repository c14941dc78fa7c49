import os
import threading

import pandas as pd
import pytest

from mixer_jax.categories import click_log, tables
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import guards

TABLES = {
    "queries": "query_id,image\nq0,q0.png\nq1,q1.png\n",
    "items": "item_id,image,text\ni0,i0.png,a cat\ni1,,a dog\n",
    "clicks": (
        "query_id,item_id,exposures,clicks\nq0,i0,4,2\nq1,i1,3,0\nq0,i0,1,1\n"
    ),
}


@pytest.fixture
def folder(tmp_path):
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def test_duplicate_pairs_are_added_up(folder):
    read = click_log.read_folder(folder)
    assert read.duplicates == 1
    assert read.clicks.to_numpy().tolist() == [[0, 0, 5, 3], [1, 1, 3, 0]]
    assert read.queries["image"].tolist() == [
        str(folder / "q0.png"),
        str(folder / "q1.png"),
    ]
    assert read.items["image"].tolist() == [str(folder / "i0.png"), ""]
    assert read.items["text"].tolist() == ["a cat", "a dog"]


def test_parquet_matches_csv(folder):
    wanted = click_log.read_folder(folder)
    for name in TABLES:
        path = folder / f"{name}.csv"
        pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
        path.unlink()
    read = click_log.read_folder(folder)
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(read, name), getattr(wanted, name)
        )


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("clicks", "q0,i1,1,2", 'line 5, column "clicks": clicks (2) exceed'),
        ("clicks", "q0,i1,-1,0", "column \"exposures\": '-1' is not a count"),
        ("clicks", "q0,i1,2,0.5", "column \"clicks\": '0.5' is not a count"),
        ("clicks", "q0,i1,2,", "column \"clicks\": '' is not a count"),
        ("clicks", f"q0,i1,{10**20},8", 'line 5, column "exposures": \'1000'),
        ("clicks", f"q0,i1,{2**53},8", "is too large; the sum"),
        ("clicks", f"q0,i1,{2**53 - 8},8", "is too large; the sum"),
        ("clicks", f"q0,i1,{2**53 + 1},8", "is too large; the sum"),
        ("clicks", "q9,i1,2,0", "line 5, column \"query_id\": 'q9' is not in"),
        ("clicks", "q0,i9,2,0", "line 5, column \"item_id\": 'i9' is not in"),
        ("queries", "q0,x.png", 'line 4, column "query_id": this ID already'),
        ("queries", ",x.png", "the ID is empty"),
        ("queries", "q9\0,x.png", "the ID ends in a NUL"),
        ("queries", "q2,", "has no image"),
        ("items", "i2,,", "no image and no text"),
        ("items", "q0,x.png,", "is the ID of both a query"),
    ],
)
def test_bad_rows_are_named(folder, table, row, message):
    path = folder / f"{table}.csv"
    path.write_text(TABLES[table] + row + "\n")
    with pytest.raises(UserError, match=f"{table}.csv") as error:
        click_log.read_folder(folder)
    assert message in str(error.value)


def test_bad_tables_are_named(folder):
    path = folder / "items.csv"
    path.write_text("item_id,image,text\n")
    with pytest.raises(UserError, match="has no rows"):
        click_log.read_folder(folder)
    path.write_text("item_id,picture\ni0,a.png\n")
    with pytest.raises(UserError, match="Missing column 'image'"):
        click_log.read_folder(folder)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        click_log.read_folder(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"neither items\.csv"):
        click_log.read_folder(folder)


def test_a_table_in_both_formats_raises_an_error(folder):
    (folder / "clicks.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="has both clicks"):
        click_log.read_folder(folder)


def test_keep_renumbers_rows(folder):
    kept = click_log.keep(click_log.read_folder(folder), {"q1", "i1"})
    assert kept.queries["query_id"].tolist() == ["q1"]
    assert kept.items["item_id"].tolist() == ["i1"]
    assert kept.clicks.to_numpy().tolist() == [[0, 0, 3, 0]]


def test_trailing_commas_raise_an_error_with_their_line(folder):
    """pandas would use the first cells as an index."""
    path = folder / "clicks.csv"
    lines = TABLES["clicks"].splitlines()
    path.write_text("\n".join([lines[0], *(f"{x}," for x in lines[1:])]))
    message = r"clicks\.csv, line 2: the row has more cells .*5 instead of 4"
    with pytest.raises(UserError, match=message):
        click_log.read_folder(folder)
    path.write_text("".join(f"{line},\n" for line in lines))
    assert click_log.read_folder(folder).duplicates == 1


def test_line_numbers_count_quoted_newlines(folder):
    path = folder / "items.csv"
    path.write_text(
        'item_id,image,text\ni0,,"two\r\nlines"\n\ni1,,"a\rb"\ni2,,\n'
    )
    with pytest.raises(UserError, match=r"items\.csv, line 7, column"):
        click_log.read_folder(folder)
    with pytest.raises(UserError, match="no image and no text"):
        click_log.read_folder(folder)


@pytest.mark.parametrize("names", [("1.0", "1"), ("1", "1.0"), ("01", "1")])
def test_ids_converted_to_numbers_are_explained(folder, names):
    known, clicked = names
    (folder / "queries.csv").write_text(f"query_id,image\n{known},q.png\n")
    (folder / "clicks.csv").write_text(
        f"query_id,item_id,exposures,clicks\n{clicked},i0,1,1\n"
    )
    with pytest.raises(UserError, match=f"'{clicked}' is not in") as error:
        click_log.read_folder(folder)
    message = str(error.value)
    assert f"which has {known}" in message.replace("'", "").replace('"', "")
    assert ("Int64" in message) == ("." in known + clicked)


def test_parquet_folders_links_and_float_ids_are_read(folder):
    wanted = click_log.read_folder(folder)
    store = folder / "elsewhere"
    store.mkdir()
    for name in TABLES:
        path = folder / f"{name}.csv"
        parts = folder / f"{name}.parquet"
        frame = pd.read_csv(path)
        path.unlink()
        (store / name).mkdir()
        (store / name / "_SUCCESS").touch()
        frame.iloc[:1].to_parquet(store / name / "part-0.parquet")
        frame.iloc[1:].to_parquet(store / name / "part-1.parquet")
        parts.symlink_to(store / name)
    read = click_log.read_folder(folder)
    pd.testing.assert_frame_equal(read.clicks, wanted.clicks)
    ids = pd.DataFrame({"query_id": [1.0, 2.0], "image": ["a", "b"]})
    other = folder / "other.parquet"
    ids.to_parquet(other)
    assert click_log.read_columns(other, click_log.QUERIES)[
        "query_id"
    ].tolist() == [
        "1",
        "2",
    ]
    ids.replace(2.0, 2.5).to_parquet(other)
    with pytest.raises(UserError, match=r"row 2, column query_id: 2\.5 is a"):
        click_log.read_columns(other, click_log.QUERIES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.assign(query_id=[1.0, "b"]), "query_id .* floats"),
        (
            lambda rows: rows.astype({"query_id": "float"}).astype(
                {"query_id": "category"}
            ),
            "query_id .* floats",
        ),
        (lambda rows: rows.assign(image=b"\x89PNG"), "queries contains bytes"),
        (
            lambda rows: pd.concat([rows, rows["image"]], axis=1),
            "the column image twice",
        ),
        (
            lambda rows: pd.concat([rows, rows["query_id"]], axis=1),
            "the column query_id twice",
        ),
    ],
)
def test_frames_that_would_be_misread_are_refused(change, message):
    queries = pd.DataFrame({"query_id": [1, 2], "image": ["a.png", "b.png"]})
    items = pd.DataFrame({"item_id": ["i"], "image": ["c.png"], "text": "c"})
    clicks = pd.DataFrame(
        {"query_id": [1], "item_id": ["i"], "exposures": [2], "clicks": [1]}
    )
    read = click_log.read_tables(queries, items, clicks)
    assert read.queries["query_id"].tolist() == ["1", "2"]
    with pytest.raises(UserError, match=message):
        click_log.read_tables(change(queries), items, clicks)


def test_images_are_relative_to_the_folder_of_a_link(tmp_path, monkeypatch):
    """DVC and git-annex replace tables with links; folders may be links too."""
    store, log = tmp_path / "store" / "deep", tmp_path / "disk" / "log"
    store.mkdir(parents=True)
    log.mkdir(parents=True)
    rows = {"query_id": ["q"], "image": ["../img/a.png"]}
    pd.DataFrame(rows).to_csv(store / "q.csv", index=False)
    (log / "queries.csv").symlink_to(store / "q.csv")
    (tmp_path / "log").symlink_to(log)
    wanted = str(tmp_path / "disk" / "img" / "a.png")
    monkeypatch.chdir(tmp_path)
    items = pd.DataFrame({"item_id": ["i"], "image": [""], "text": ["c"]})
    clicks = pd.DataFrame(
        {"query_id": ["q"], "item_id": ["i"], "exposures": [2], "clicks": [1]}
    )
    for path in ("log/queries.csv", log / "queries.csv"):
        read = click_log.read_tables(path, items, clicks)
        assert read.queries["image"].tolist() == [wanted]


@pytest.mark.parametrize("name", [".", "../t", "../t/."])
def test_a_table_may_be_the_working_directory(tmp_path, monkeypatch, name):
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path / "t")
    assert click_log.home(name) == tmp_path


def test_a_folder_name_need_not_be_utf8(folder):
    renamed = folder / os.fsdecode(b"\xff")
    try:
        renamed.mkdir()
    except OSError:
        pytest.skip("This file system only supports UTF-8 names.")
    for name in TABLES:
        (folder / f"{name}.csv").rename(renamed / f"{name}.csv")
    read = click_log.read_folder(renamed)
    images = tables.catalog(read)["image"].tolist()
    assert images[:2] == [str(renamed / "q0.png"), str(renamed / "q1.png")]


def test_reading_waits_while_tables_are_replaced(folder):
    """New queries are never read with old clicks."""
    logs = []
    reader = threading.Thread(
        target=lambda: logs.append(click_log.read_folder(folder))
    )
    with guards.locked(folder):
        queries = folder / "queries.csv"
        queries.write_text("query_id,image\nq1,q1.png\nq0,q0.png\n")
        reader.start()
        reader.join(0.5)
        assert reader.is_alive()
        clicks = folder / "clicks.csv"
        clicks.write_text("query_id,item_id,exposures,clicks\nq0,i0,9,8\n")
    reader.join()
    assert logs[0].clicks.to_numpy().tolist() == [[1, 0, 9, 8]]
