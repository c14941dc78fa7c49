import pandas as pd
import pytest

from mixer_jax.data import read as read_lib
from mixer_jax.data.readers import columns
from mixer_jax.runtime.errors import UserError

MAPPING = (
    "--column=sample_id=id",
    "--column=category_id=sku",
    "--column=image=file",
    "--column=text=title",
)
HEADER = "id,sku,file,title,brand"


def write(folder, *rows, name="products.csv", header=HEADER, comma=","):
    content = "\r\n".join((header, *rows)) + "\r\n"
    folder.write(name, "\ufeff" + content.replace(",", comma))


def read(folder, *options, name="products.csv"):
    return folder.read("columns", f"--source={name}", *MAPPING, *options)


def test_columns_are_mapped_and_missing_roles_drawn(folder):
    write(
        folder,
        '1,A1,a.jpg,"A, title",x',
        "2,A1,b.jpg,,x",
        "3,A1,,Größe ✓,x",
        "4,,c.jpg,no category,x",
        "5,A1,,,x",
        "6,A1,gone.jpg,,x",
    )
    folder.images("pictures/a.jpg", "pictures/b.jpg")
    frame, output = read(
        folder, "--image-path=pictures/{}", "--column=group=brand"
    )
    frame = frame.set_index("sample_id")
    assert list(frame.index) == ["1", "2", "3"]
    assert frame["image"].tolist() == ["pictures/a.jpg", "pictures/b.jpg", ""]
    assert set(frame["group"]) == {"x"}
    assert sorted(frame["role"][:2]) == ["document", "query"]
    assert frame.loc["3", ["role", "text"]].tolist() == ["document", "Größe ✓"]
    for reason in (
        "without a category (1)",
        "without an image (1)",
        "with a missing or empty image file (1)",
    ):
        assert reason in output


@pytest.mark.parametrize(
    ("name", "comma", "options"),
    [
        ("p.tsv", "\t", ()),
        ("p.csv.gz", ",", ()),
        ("P.CSV.GZ", ",", ()),
        ("P.TSV", "\t", ()),
        ("p.csv", ";", ("--delimiter=;",)),
    ],
)
def test_reads_other_delimiters_and_gz(folder, name, comma, options):
    write(folder, "1,A,a.jpg,t,x", "2,A,b.jpg,t,x", name=name, comma=comma)
    folder.images("a.jpg", "b.jpg")
    frame, _ = read(folder, *options, name=name)
    assert frame["sample_id"].tolist() == ["1", "2"]


def test_reads_parquet_with_numbers_and_given_roles(folder):
    frame = pd.DataFrame(
        {
            "sku": [7, 7, 8, 8],
            "file": ["a", "b", "c", None],
            "title": [None, "x", None, "y"],
            "role": ["query", "document", "query", "document"],
            "part": ["train", "train", "test/new", "test/new"],
        }
    )
    frame.to_parquet(folder.root / "p.parquet")
    folder.images("a.png", "b.png", "c.png")
    got, _ = folder.read(
        "columns",
        "--source=p.parquet",
        *MAPPING[1:],
        "--column=role=role",
        "--column=split=part",
        "--image-path={}.png",
    )
    assert got["sample_id"].tolist() == ["1", "2", "3", "4"]
    assert got["category_id"].tolist() == ["7", "7", "8", "8"]
    assert got["image"].tolist() == ["a.png", "b.png", "c.png", ""]
    assert got["role"].tolist() == frame["role"].tolist()
    assert got["split"].tolist() == frame["part"].tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2,A,../b.jpg,,", "line 3, column file: the path '../b.jpg'"),
        ("2,A,/b.jpg,,", "line 3, column file: the path '/b.jpg'"),
        (",A,b.jpg,,", "line 3, column id: a sample needs an ID"),
        ("2,A,b.jpg", "line 3: the row has 3 cells"),
        ("2,A,b.jpg,,qeury", "line 3, column brand: the role is 'qeury'"),
    ],
)
def test_invalid_row_error_names_line_and_source_column(folder, row, message):
    write(folder, "1,A,a.jpg,,", row)
    folder.images("a.jpg", "b.jpg")
    err = folder.refuse(
        "columns", "--source=products.csv", *MAPPING, "--column=role=brand"
    )
    assert message in err


def test_invalid_split_raises_an_error(folder):
    write(folder, "1,A,a.jpg,,my split")
    err = folder.refuse(
        "columns", "--source=products.csv", *MAPPING, "--column=split=brand"
    )
    assert "line 2, column brand: the split is 'my split'" in err


def test_invalid_files_raise_an_error(folder):
    args = ("--source=p.csv", *MAPPING)
    assert "There is no p.csv" in folder.refuse("columns", *args)
    write(folder, "1,A,a.jpg", name="p.csv", header="id,sku,file")
    assert "no column 'title'; the columns are 'id'" in folder.refuse(
        "columns", *args
    )
    own = f"--out={folder.root}/p.csv"
    message = folder.refuse("columns", *args, own, "--overwrite")
    assert "--out is the source itself" in message
    folder.write("p.parquet", b"no parquet")
    args = ("--source=p.parquet", *MAPPING)
    assert "p.parquet cannot be read" in folder.refuse("columns", *args)
    pd.DataFrame({"id": [1]}).to_parquet(folder.root / "p.parquet")
    assert "Missing column 'sku'" in folder.refuse("columns", *args)
    folder.write("p.xlsx", b"")
    message = folder.refuse("columns", "--source=p.xlsx", *MAPPING)
    assert "must be a .csv" in message
    message = folder.refuse(
        "columns", "--source=p.csv", *MAPPING, "--image-path=images"
    )
    assert "must contain {} exactly once" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "write OURS=THEIRS"),
        ("text=", "write OURS=THEIRS"),
        ("txt=title", "did you mean 'text'"),
        ("text=a|text=b", "names 'text' twice"),
        ("image=a", "must name a category_id"),
        ("category_id=a", "an image, a text, or both"),
    ],
)
def test_invalid_mappings_raise_an_error(given, message):
    with pytest.raises(UserError, match=message):
        columns.parse_columns(given.split("|"))


def test_names_may_contain_commas_and_equals_signs(folder):
    header = 'id,"sku, no.",a=b,"x|y"'
    rows = ("1,A,a.jpg,t", "2,A,b.jpg,t")
    write(folder, *rows, header=header, name="a|b,c.csv")
    frame, _ = folder.read(
        "columns",
        "--source=a|b,c.csv",
        "--column=category_id=sku, no.",
        "--column=image=a=b",
        "--column=text=x|y",
        "--no-image-check",
    )
    assert frame["image"].tolist() == ["a.jpg", "b.jpg"]
    assert set(frame["category_id"]) == {"A"}
    assert set(frame["text"]) == {"", "t"}


@pytest.mark.parametrize("text", ["", ";;", "\n", '"'])
def test_delimiter_must_be_one_character(text, capsys):
    with pytest.raises(SystemExit) as caught:
        read_lib.make_parser("columns").parse_args([f"--delimiter={text}"])
    assert caught.value.code == 2
    assert "must be one character" in capsys.readouterr().err


def test_duplicate_mapped_column_raises_an_error(folder):
    write(folder, "1,A1,a.jpg,x,A2", header="id,sku,file,title,sku")
    with pytest.raises(AssertionError, match="'sku' occurs more than once"):
        read(folder)
    rows = ("1,A1,a.jpg,x,1,2", "2,A1,b.jpg,x,1,2")
    write(folder, *rows, header="id,sku,file,title,x,x")
    folder.images("a.jpg", "b.jpg")
    read(folder)


def test_error_for_a_single_cell_header_suggests_delimiter(folder):
    write(folder, "1,A1,a.jpg,A,x", comma=";")
    message = folder.refuse("columns", "--source=products.csv", *MAPPING)
    assert "set --delimiter if ',' does not separate the cells" in message


def test_invalid_row_error_names_the_parquet_part(folder):
    columns = HEADER.split(",")
    rows = pd.DataFrame([list("1abcd"), list("2abcd")], columns=columns)
    (folder.root / "p").mkdir()
    rows.to_parquet(folder.root / "p" / "0.parquet")
    rows["file"] = ["a", "../b"]
    rows.to_parquet(folder.root / "p" / "1.parquet")
    message = folder.refuse("columns", "--source=p", *MAPPING)
    assert "p/1.parquet, row 2, column file: the path '../b'" in message
