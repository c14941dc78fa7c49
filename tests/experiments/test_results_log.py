import json

import pytest

from mixer_jax.experiments import results_log
from mixer_jax.experiments.results_log import ResultsLog
from mixer_jax.runtime.errors import UserError

ROW = {key: "x" for key in results_log._KEYS} | {
    "kind": "trial",
    "hyper": {"margin": 0.1},
    "measures": {"identical_at_1": 0.5},
}


@pytest.fixture
def written(tmp_path):
    log = ResultsLog(tmp_path, print)
    for number in range(3):
        log.add(ROW | {"key": str(number)})
    log.close()
    return tmp_path / results_log.NAME


def test_rows_are_read_back(written):
    rows, size, cut = results_log.read(written)
    assert [row["key"] for row in rows] == ["0", "1", "2"]
    assert (size, cut) == (written.stat().st_size, 0)
    missing = written.with_name("missing.jsonl")
    assert results_log.read(missing) == ([], 0, 0)


@pytest.mark.parametrize("end", [b"", b"\n", b"\0\0\n"])
def test_unfinished_last_line_is_cut_off(written, end):
    whole = written.read_bytes()
    line = json.dumps(ROW).encode()
    written.write_bytes(whole + line[:-9] + end)
    assert len(results_log.read(written).rows) == 3
    said = []
    log = ResultsLog(written.parent, said.append)
    assert len(said) == 1
    assert (
        f"cut off the last line ({len(line) - 9 + len(end)} bytes)" in said[0]
    )
    log.add(ROW)
    log.close()
    assert written.read_bytes() == whole + line + b"\n"


@pytest.mark.parametrize(
    "line", ["{", "[]", "null", '{"kind": "other"}', "", '{"kind": "final"}']
)
def test_damage_elsewhere_is_an_error(written, line):
    first, _, rest = written.read_text().partition("\n")
    written.write_text(f"{first}\n{line}\n{rest}")
    with pytest.raises(UserError, match=r"Line 2 of .* is damaged"):
        ResultsLog(written.parent, print)
    assert line in written.read_text()
