import os
import pathlib

import pandas as pd
import pytest

from mixer_jax.data.tables import rules, table
from mixer_jax.runtime.errors import UserError

HEADER = ",".join(table.COLUMNS)
GOOD = (
    "q1,query,a.png,,c1,g1,train",
    "d1,document,b.png,red apple,c1,g1,train",
    "d2,document,,only a text,c2,,train",
    "q2,query,e.png,,c2,,train",
    "q3,query,f.png,,c3,,test",
    "d3,document,f.png,,c3,,test",
)


def write(folder, *rows, header=HEADER):
    path = folder / "table.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def read(folder, *rows, **kwargs):
    return table.read_table(write(folder, *rows, **kwargs))


def test_reads_strings_and_keeps_missing_cells_empty(tmp_path):
    frame = read(tmp_path, *GOOD, "d4,document,,NA,007,None,test")
    assert tuple(frame.columns) == table.COLUMNS
    assert frame.loc[2, "image"] == ""
    assert frame.loc[6].tolist()[2:] == ["", "NA", "007", "None", "test"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_table_reads_back_equal(tmp_path, suffix):
    frame = read(tmp_path, *GOOD, 'd4,document,,"two\nlines, ""x""",c3,,test')
    path = tmp_path / "new" / f"copy{suffix}"
    table.write_table(frame, path)
    pd.testing.assert_frame_equal(table.read_table(path), frame)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_reads_columns_in_any_order_and_a_byte_order_mark(tmp_path):
    path = write(
        tmp_path,
        "train,,c1,,a.png,query,q1",
        header="\ufeff" + ",".join(reversed(table.COLUMNS)),
    )
    assert table.read_table(path).loc[0, "sample_id"] == "q1"


def test_parquet_nulls_become_empty_strings(tmp_path):
    path = tmp_path / "table.parquet"
    row = ("d1", "document", None, "text", "c", None, "train")
    pd.DataFrame([row], columns=table.COLUMNS).to_parquet(path)
    assert table.read_table(path).loc[0, "image"] == ""


def test_parquet_numbers_and_nulls_become_strings(tmp_path):
    path = tmp_path / "table.parquet"
    rows = [
        (7, "document", None, "text", 12, None, "train"),
        (8, "document", None, "text", 12, 2.5, "train"),
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    frame["role"] = frame["role"].astype("category")
    frame.to_parquet(path)
    got = table.read_table(path)
    assert got["category_id"].tolist() == ["12", "12"]
    assert got["group"].tolist() == ["", "2.5"]


def test_reads_very_long_texts(tmp_path):
    frame = read(tmp_path, f"d1,document,,{'word ' * 50_000},c,,train")
    assert len(frame.loc[0, "text"]) == 250_000


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        (",query,a.png,,c1,,train", "sample_id", "needs an ID"),
        ("q1,query,a.png,,c1,,train", "sample_id", "'q1'"),
        ("x,qeury,a.png,,c1,,train", "role", "'qeury'"),
        ("x,query,a.png,,,,train", "category_id", "required"),
        ("x,query,,,c1,,train", "image", "needs an image"),
        ("x,query,a.png,words,c1,,train", "text", "cannot have a text"),
        ("x,document,,,c1,,train", "image", "an image or a text"),
        ("x,query,../a.png,,c1,,train", "image", "relative"),
        ("x,query,a/../../b.png,,c1,,train", "image", "relative"),
        ("x,query,C:\\a.png,,c1,,train", "image", "relative"),
        ("x,query,a.png,,c1,,", "split", "name/part"),
        ("x,query,a.png,,c1,,train/a/b", "split", "'train/a/b'"),
        ("x,query,a.png,,c1,,my split", "split", "'my split'"),
    ],
)
def test_invalid_cell_error_names_file_line_and_column(
    tmp_path, row, column, expected
):
    # The quoted cell makes line numbers differ from row numbers.
    long = 'd9,document,,"a text\nof two lines",c1,,train'
    with pytest.raises(UserError) as caught:
        read(tmp_path, GOOD[0], long, "", row)
    message = str(caught.value)
    assert f"{tmp_path / 'table.csv'}, line 6, column {column}:" in message
    assert expected in message


def test_invalid_parquet_row_error_names_the_row_number(tmp_path):
    path = tmp_path / "table.parquet"
    rows = [row.split(",") for row in (*GOOD, "x,qeury,a.png,,c1,,train")]
    pd.DataFrame(rows, columns=table.COLUMNS).to_parquet(path)
    with pytest.raises(UserError, match=r"parquet, row 7, column role"):
        table.read_table(path)


def test_dots_in_file_names_are_allowed(tmp_path):
    assert len(read(tmp_path, "q,query,a..b/..c/d...png,,c,,train")) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("role", "roles"), "did you mean 'role'"),
        (HEADER + ",price", "Unknown column 'price'"),
        (HEADER.replace(",group", ""), "Missing column 'group'"),
        (HEADER.replace(",", ";"), "comma-separated"),
    ],
)
def test_wrong_columns_raise_an_error(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, header=header)


def test_unreadable_files_raise_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no sample table at .*none\.csv"):
        table.read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no rows"):
        read(tmp_path)
    path = tmp_path / "bad.csv"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        table.read_table(path)
    path.write_bytes(HEADER.encode() + b"\nq\xff,query\n")
    with pytest.raises(UserError, match="cannot be read"):
        table.read_table(path)
    path.write_text(f"{HEADER}\n{GOOD[0]}\n{GOOD[1]},more\n")
    with pytest.raises(UserError, match="line 3"):
        table.read_table(path)
    path.write_text(f"{HEADER}\n{GOOD[0]},\n{GOOD[1]},\n")
    with pytest.raises(UserError, match="more cells than the header"):
        table.read_table(path)
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        table.read_table(path)
    path = tmp_path / "table.xlsx"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"\.csv or a \.parquet"):
        table.read_table(path)


def test_write_rejects_an_invalid_frame_and_keeps_the_old_file(tmp_path):
    frame = read(tmp_path, *GOOD)
    path = tmp_path / "table.csv"
    before = path.read_bytes()
    with pytest.raises(UserError, match="role"):
        table.write_table(frame.assign(role="x"), path)
    with pytest.raises(UserError, match="Missing column 'text'"):
        table.write_table(frame.drop(columns="text"), path)
    assert path.read_bytes() == before


def test_select_returns_a_split_with_its_parts(tmp_path):
    frame = read(
        tmp_path,
        "a,query,a.png,,c,,train/x",
        "b,query,a.png,,c,,train",
        "c,query,a.png,,c,,training",
        "d,query,a.png,,c,,train/y",
    )
    assert table.select(frame, "train")["sample_id"].tolist() == list("abd")
    assert table.select(frame, "train/y")["sample_id"].tolist() == ["d"]
    assert table.parts(frame, "train") == ["", "x", "y"]
    assert table.parts(frame, "training") == [""]
    with pytest.raises(UserError, match=r"'test'.*train/x"):
        table.select(frame, "test")
    with pytest.raises(UserError, match=r"no samples of split '.udcff'"):
        table.select(frame, "\udcff")


def test_labels_are_positions_in_the_sorted_categories(tmp_path):
    frame = read(tmp_path, *GOOD)
    index = table.category_index(table.select(frame, "train"))
    assert index == ["c1", "c2"]
    labels = table.labels(frame, index)
    assert labels.tolist() == [0, 0, 1, 1, -1, -1]
    assert labels.dtype == "int32"


def test_lone_training_samples_are_left_out_up_to_a_share(tmp_path):
    lone = [f"x{i},query,a.png,,lone{i},,train" for i in range(12)]
    frame = read(tmp_path, *GOOD[:4], *lone)
    kept, skipped = table.drop_lone(frame, 0.75)
    assert kept["sample_id"].tolist() == ["q1", "d1", "d2", "q2"]
    assert (skipped.count, skipped.total, skipped.share) == (12, 16, 0.75)
    with pytest.raises(UserError) as caught:
        table.drop_lone(frame, 0.74)
    message = str(caught.value)
    assert "12 of 16 samples" in message
    assert f"{tmp_path / 'table.csv'}, line 6: category 'lone0'" in message
    assert "'lone9'" in message
    assert "'lone10'" not in message
    assert "2 more" in message
    assert "raise --max-skipped" in message


def test_unanswered_test_queries_are_left_out_but_documents_stay(tmp_path):
    frame = read(
        tmp_path,
        "q1,query,a.png,,c1,,test/x",
        "d1,document,a.png,,c1,,test/y",
        "q2,query,a.png,,c2,,test/x",
        "d2,document,a.png,,c2,,test/x",
        "d3,document,a.png,,c3,,test/x",
    )
    kept, skipped = table.drop_lone(frame, 0.2, training=False)
    assert kept["sample_id"].tolist() == ["d1", "q2", "d2", "d3"]
    assert "line 2: category 'c1'" in skipped.examples[0]


def test_selected_rows_keep_their_line_numbers(tmp_path):
    frame = table.select(read(tmp_path, *GOOD), "test")
    skipped = table.skip(frame, [1], ["why"], "unreadable")
    path = tmp_path / "table.csv"
    assert skipped.examples == (f"{path}, line 7: why",)
    assert str(skipped) == "1 of 2 samples skipped: unreadable"


def test_both_directions_add_every_image_with_the_opposite_role(tmp_path):
    frame = read(tmp_path, *GOOD)
    both = table.with_both_directions(frame)
    table.validate(both)
    forward, reverse = both[:6], both[6:]
    assert forward["sample_id"].tolist() == frame["sample_id"].tolist()
    assert set(forward["split"]) == {"train/forward", "test/forward"}
    reverse = reverse.set_index("sample_id")
    # d2 has no image, so it cannot be a query.
    assert set(reverse.index) == {
        f"reverse:{name}" for name in ("q1", "d1", "q2", "q3", "d3")
    }
    assert reverse.loc["reverse:q1", "role"] == "document"
    assert reverse.loc["reverse:q1", "text"] == "red apple"
    assert reverse.loc["reverse:q2", "text"] == "only a text"
    assert reverse.loc["reverse:q3", "text"] == ""
    assert reverse.loc["reverse:d1", ["role", "text"]].tolist() == [
        "query",
        "",
    ]
    assert reverse.loc["reverse:d3", "split"] == "test/reverse"
    with pytest.raises(UserError, match="parts"):
        table.with_both_directions(both)


def test_long_cells_are_shortened_in_messages(tmp_path):
    row = f"{'s' * 9000},document,,words,c,,train"
    with pytest.raises(UserError, match="9,000 characters") as caught:
        read(tmp_path, row, row)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", [".", "./", "../parts", "deep/.."])
def test_folder_of_parquet_files_is_next_to_its_images(
    tmp_path, monkeypatch, name
):
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "parts")
    assert os.path.samefile(table.folder(name), tmp_path)
    monkeypatch.chdir("deep")
    assert os.path.samefile(table.folder(".."), tmp_path)
    assert table.folder("a/table.csv") == pathlib.Path("a")
    assert table.folder("table.csv") == pathlib.Path()


def test_longest_allowed_row_can_be_written_as_csv(tmp_path):
    frame = read(tmp_path, "d,document,,x,c,,train")
    longest = rules.LONGEST - sum(map(len, frame.loc[0])) + 1
    for cell in ('"' * longest, "\U0001f600" * longest):
        frame.loc[0, "text"] = cell
        table.write_table(frame, tmp_path / "new.csv")
        assert table.read_table(tmp_path / "new.csv").loc[0, "text"] == cell
    frame.loc[0, "text"] = "x" * (longest + 1)
    frame.to_parquet(tmp_path / "new.parquet")
    with pytest.raises(UserError, match=r"row 1, .* more than .* characters"):
        table.read_table(tmp_path / "new.parquet")
