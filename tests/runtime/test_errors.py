"""User errors: commands print the message and exit with code 2."""

import pytest

from mixer_jax import embed, evaluate, index, report
from mixer_jax.runtime.errors import UserError

COMMANDS = {
    embed: ("--workdir", "--table=t.csv", "--out=e.npz"),
    evaluate: ("--workdir",),
    index: ("--workdir", "--table=t.csv", "--out=i"),
    report: ("--workdir",),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_missing_run_is_an_error(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    option, *more = COMMANDS[command]
    assert command.main([f"{option}=nowhere", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "nowhere" in error or "t.csv" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_user_error_is_a_value_error():
    with pytest.raises(ValueError, match="what would work"):
        raise UserError("what would work")
