import pandas as pd
import pytest

from mixer_jax.data.tables import rules, table
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import boxes, tables

HEADER = ",".join(rules.COLUMNS)
ROWS = [
    f'd{i},document,,"line {i}\nline, ""{i}"" größe",c{i // 3},,train'
    for i in range(50)
]
GOOD = ("q", "query", "a.png", "", "c", "", "train")


def frame(*rows):
    return pd.DataFrame(list(rows), columns=rules.COLUMNS, dtype=str)


def test_every_rule_can_be_broken():
    bad = {
        "sample_id": ["", "a\0"],
        "role": ["x"],
        "category_id": [""],
        "image": [
            "",
            "/a/../b",
            "~a",
            "a/../b",
            "..",
            "C:a",
            "\\a",
            "..\nx",
            "http://x/a",
            "a.png#box=1,2,1,3",
            "a.png#box=1,3,2,2",
        ],
        "text": ["words"],
        "split": ["", "a b", "a/b/c", "train\n"],
    }
    broken = set()
    for column, cells in bad.items():
        for cell in cells:
            row = dict(zip(rules.COLUMNS, GOOD, strict=True)) | {column: cell}
            found = list(rules.faults(frame(tuple(row.values()))))
            assert len(found) == 1, (column, cell)
            assert found[0].rule.column == column
            broken.add(found[0].rule)
    for box in (
        ("1", "", "", ""),
        *(tuple("x" if i == j else "1" for j in range(4)) for i in range(4)),
        *(("1", "1", "1", "2"), ("1", "1", "2", "1")),
    ):
        boxed = dict(zip(boxes.COLUMNS, box, strict=True))
        broken |= {
            one.rule for one in rules.faults(frame(GOOD).assign(**boxed))
        }
    boxed = dict(zip(boxes.COLUMNS, "1122", strict=True))
    lacks = frame(GOOD).assign(image="", role="document", text="t", **boxed)
    broken |= {one.rule for one in rules.faults(lacks)}
    document = ("d", "document", "", "", "c", "", "train")
    broken |= {one.rule for one in rules.faults(frame(document))}
    broken |= {one.rule for one in rules.faults(frame(GOOD, GOOD))}
    long = ("d", "document", "", "x" * rules.LONGEST, "c", "", "train")
    broken |= {one.rule for one in rules.faults(frame(long))}
    assert broken == set(rules.RULES)


def test_fault_has_the_first_row_and_the_number_of_rows():
    bad = ("x", "qeury", "a.png", "", "c", "", "train")
    about_roles = [one for one in rules.RULES if one.column == "role"]
    (fault,) = rules.faults(frame(GOOD, bad, bad), about_roles)
    assert (fault.row, fault.value, fault.count) == (1, "qeury", 2)
    assert fault.describe("here") == (
        "here, column role: the role is 'qeury'; it must be 'query' or "
        "'document' (and 1 more rows)."
    )


def test_duplicate_column_raises_an_error():
    rules.LAYOUT.check(rules.COLUMNS[::-1], "t.csv")
    with pytest.raises(UserError, match="Duplicate column 'role'"):
        rules.LAYOUT.check([*rules.COLUMNS, "role"], "t.csv")


def write(path, *rows, header=HEADER, end="\n"):
    path.write_bytes((end.join((header, *rows)) + end).encode())
    return path


def read(path, **sizes):
    return [batch.rows for batch in tables.batches(path, rules.LAYOUT, **sizes)]


@pytest.fixture
def both(tmp_path):
    """The same table as CSV and as Parquet."""
    path = write(tmp_path / "t.csv", *ROWS)
    table.write_table(table.read_table(path), tmp_path / "t.parquet")
    return path, tmp_path / "t.parquet"


def test_batches_concatenate_to_the_table(both):
    want = table.read_table(both[0])
    assert want["text"][7] == 'line 7\nline, "7" größe'
    for path, sizes in zip(both, ({"block": 300}, {"rows": 7}), strict=True):
        batches = read(path, **sizes)
        assert len(batches) > 5
        frame = boxes.join(pd.concat(batches))
        assert list(frame.index) == list(range(50))
        pd.testing.assert_frame_equal(frame, want, check_index_type=False)
        done = [one.done for one in tables.batches(path, rules.LAYOUT, **sizes)]
        assert done == sorted(done)
        assert done[-1] == 1.0


def test_reads_bom_crlf_blank_lines_and_any_column_order(tmp_path):
    header = "\ufeff" + ",".join(reversed(rules.COLUMNS))
    rows = ("train,,c,,a.png,query,q1", "", "train,,c,,b.png,query,q2", "", "")
    path = write(tmp_path / "t.csv", *rows, header=header, end="\r\n")
    (frame,) = read(path)
    assert tuple(frame.columns) == (*rules.COLUMNS, *boxes.COLUMNS)
    assert frame["sample_id"].tolist() == ["q1", "q2"]
    assert tables.name_records(path, [1, 0]) == [
        f"{path}, line 4",
        f"{path}, line 2",
    ]


def test_parquet_and_in_memory_records_are_named_by_row():
    assert tables.name_records("t.parquet", [4]) == ["t.parquet, row 5"]
    assert tables.name_records("", [4]) == ["row 5"]


def test_only_empty_cells_are_missing_values(tmp_path):
    path = write(tmp_path / "t.csv", 'd,document,"",NA,007,null,train')
    (frame,) = read(path)
    assert frame.loc[0].tolist()[2:6] == ["", "NA", "007", "null"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,document,,a", "line 4: the row has fewer cells than the header, 4"),
        ("x,document,,a,c,,train,", "more cells than the header, 8 instead"),
    ],
)
def test_wrong_row_length_error_names_the_line(tmp_path, row, message):
    for at in (1, 40):  # in the first batch, and in a later one
        rows = [*ROWS[:at], row, *ROWS[at:]]
        path = write(tmp_path / "t.csv", *rows)
        with pytest.raises(UserError) as caught:
            read(path, block=300)
        assert message.replace("line 4", f"line {2 * at + 2}") in str(
            caught.value
        )


def test_unclosed_quote_raises_an_error(tmp_path):
    path = write(
        tmp_path / "t.csv", *ROWS[:3], 'x,document,,"a,c,,train', *ROWS
    )
    with pytest.raises(UserError, match=r"t\.csv"):
        read(path, block=300)
    with pytest.raises(UserError, match=r"t\.csv"):
        read(path)


def test_unclosed_quote_at_the_end_raises_an_error(tmp_path):
    header = "sample_id,role,image,category_id,group,split,text"
    path = tmp_path / "t.csv"
    for end in ("\n", ""):
        for cell in (
            '"a\nd3,document,,c,,train,x',
            '"',
            '"a ""b"" c',
            '"größe',
        ):
            rows = ("d1,document,,c,,train,t", f"d2,document,,c,,train,{cell}")
            path.write_text("\n".join((header, *rows)) + end)
            with pytest.raises(UserError, match=r"line 3: .* unclosed quote"):
                read(path)
        for cell in ('"a\n"', '""', "", '5" pipe', 'x"', '"a ""b"""', '"""\n"'):
            row = f"d1,document,,c,,train,{cell}"
            path.write_text(f"{header}\n{row}{end}")
            assert len(read(path)[0]) == 1


def test_row_longer_than_a_block_raises_an_error(tmp_path):
    path = write(tmp_path / "t.csv", f"d,document,,{'w' * 999},c,,train")
    assert len(read(path)) == 1
    with pytest.raises(
        UserError, match=r"more than 100 bytes.* unclosed quote"
    ):
        read(path, block=100)


def test_invalid_utf8_error_names_the_line(tmp_path):
    path = write(tmp_path / "t.csv", *ROWS)
    path.write_bytes(path.read_bytes() + b"d\xff,document,,t,c,,train\n")
    for sizes in ({}, {"block": 300}):
        with pytest.raises(
            UserError, match=r"t\.csv cannot be read: line 102 "
        ):
            read(path, **sizes)


def test_parquet_cells_become_strings(tmp_path):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame(
        {
            "sample_id": [1, 2, 3],
            "role": pd.Categorical(["document"] * 3),
            "image": [None] * 3,
            "text": ["a", None, ""],
            "category_id": pd.array([7, None, 8], dtype="Int64"),
            "group": [1.5, float("nan"), 2.25],
            "split": "train",
        },
        index=[5, 7, 9],
    )
    frame.to_parquet(path)
    got = pd.concat(read(path, rows=2))
    assert got["sample_id"].tolist() == ["1", "2", "3"]
    assert set(got["role"]) == {"document"}
    assert got["text"].tolist() == ["a", "", ""]
    assert got["category_id"].tolist() == ["7", "", "8"]
    assert got["group"].tolist() == ["1.5", "", "2.25"]
    frame.assign(text=[["a"], ["b"], []]).to_parquet(path)
    with pytest.raises(UserError, match="column text: cells are of type"):
        read(path)
    frame.rename(columns={"text": "txt"}).to_parquet(path)
    with pytest.raises(UserError, match="Missing column 'text'"):
        read(path)
