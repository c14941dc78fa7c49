import pandas as pd

from mixer_jax.data import check
from mixer_jax.data.tables import rules

ROWS = [
    ("q", "query", "q.png", "", "c", "", "train"),
    ("d", "document", "d.png", "words", "c", "", "train"),
    ("e", "document", "", "words", "lone", "", "train"),
]


def run(path, capsys, *options, rows=ROWS):
    pd.DataFrame(rows, columns=rules.COLUMNS).to_csv(path, index=False)
    code = check.main([f"--table={path}", *options])
    return code, *capsys.readouterr()


def test_prints_a_summary_of_the_table(tmp_path, capsys):
    path = tmp_path / "t.csv"
    code, out, _ = run(path, capsys)
    assert code == 0
    assert f"{path}: 3 samples of 2 categories; all rows are valid" in out
    assert "unanswered" in out
    assert "1 training samples are the only ones of their category" in out


def test_lists_all_broken_rules(tmp_path, capsys):
    path = tmp_path / "t.csv"
    rows = [*ROWS, ("q", "qeury", "q.png", "", "c", "", "train")]
    code, out, err = run(path, capsys, rows=rows)
    assert (code, out) == (2, "")
    assert f"error: {path}, line 5, column sample_id:" in err
    assert f"\n{path}, line 5, column role: the role is 'qeury'" in err


def test_images_option_checks_the_image_files(tmp_path, capsys):
    path = tmp_path / "t.csv"
    (tmp_path / "q.png").write_bytes(b"x")
    code, _, err = run(path, capsys, "--images")
    assert code == 2
    assert "line 3: 'd.png' is missing or empty" in err
    code, out, _ = run(path, capsys, "--images", "--max-skipped=0.5")
    assert code == 0
    assert "1 of 3 samples skipped: missing or empty images" in out
    (tmp_path / "d.png").write_bytes(b"x")
    code, out, _ = run(path, capsys, "--images", "--threads=1")
    assert code == 0
    assert "skipped" not in out
