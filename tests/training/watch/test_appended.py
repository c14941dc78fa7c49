import subprocess

import pytest
import tensorboardX

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.watch import appended


def test_events_match_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setattr(appended.time, "time", lambda: 1700000000.0)
    written = []
    for folder, board in (
        (tmp_path / "ours", appended.Events(tmp_path / "ours", 5)),
        (tmp_path / "theirs", tensorboardX.SummaryWriter(tmp_path / "theirs")),
    ):
        add = getattr(board, "add_scalar", None) or board.add
        add("loss", 1.25, 7)
        board.close()
        (events,) = folder.iterdir()
        written.append((events.name, events.read_bytes()))
    (name, ours), (their_name, theirs) = written
    assert name == their_name
    # Both begin with the version; ours continues with the purge step.
    version = len(appended._framed(b""))
    assert ours[:version] == theirs[:version]
    assert ours.endswith(theirs[-40:])


def test_records_are_written_completely_or_not_at_all(disk):
    path, record = disk / "log", b"x" * 1000 + b"\n"
    file = appended.Appended(path)

    def fill():
        while True:
            file.write(record)

    with pytest.raises(UserError, match=f"{path}.*No space left"):
        fill()
    count, rest = divmod(path.stat().st_size, len(record))
    assert count > 0
    assert rest == 0
    subprocess.run(["mount", "-o", "remount,size=300k", disk], check=True)
    file.write(record)
    file.close()
    assert path.read_bytes() == record * (count + 1)
