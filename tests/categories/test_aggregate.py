import importlib.util
import json
import subprocess
import sys

from mixer_jax.categories import aggregate

NOON = 1_767_268_800


def test_the_command_counts_events(beam_environment, tmp_path):
    (tmp_path / "queries.csv").write_text("query_id,image\nq0,q.png\n")
    (tmp_path / "items.csv").write_text("item_id,image,text\ni0,,a\n")
    for number in range(3):
        rows = [f"q0,i0,{NOON + number},s{i},1" for i in range(9)]
        head = "query_id,item_id,time,session,clicked"
        text = "\n".join([head, *rows, rows[0]]) + "\n"
        (tmp_path / f"events-{number}.csv").write_text(text)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mixer_jax.categories.aggregate"),
            f"--events={tmp_path}/events-[01].csv",
            f"--events={tmp_path}/events-2.csv",
            f"--out={tmp_path}",
            "--until=2026-01-01T12:00:02Z",
            *("--", "--direct_num_workers=1"),
        ],
        env=beam_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [
        "clicks: 1 pairs, 18 exposures, 18 clicks",
        "clicks_later: 1 pairs, 9 exposures, 9 clicks",
        "left out: duplicates (3)",
    ]
    figures = json.loads((tmp_path / "aggregate.json").read_text())
    assert figures["files"] == 3


def test_without_beam_the_error_tells_how_to_install_it(
    tmp_path, capsys, monkeypatch
):
    known = importlib.util.find_spec

    def find(name):
        return None if name == "apache_beam" else known(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert aggregate.main(["--events=a.csv", f"--out={tmp_path}"]) == 2
    assert 'pip install "apache-beam' in capsys.readouterr().err


def test_an_invalid_time_raises_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    arguments = ["--events=a.csv", f"--out={tmp_path}", "--until=now"]
    assert aggregate.main(arguments) == 2
    assert "error: --until: time is 'now'" in capsys.readouterr().err


def test_a_remote_folder_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    arguments = ["--events=a.csv", "--out=gs://bucket/log"]
    assert aggregate.main(arguments) == 2
    assert "--out=gs://bucket/log is remote" in capsys.readouterr().err


def test_the_folder_is_locked_in_the_environment_of_beam(
    beam_environment, tmp_path
):
    """Beam's environment has neither JAX nor libraries for buckets."""
    code = """
import sys
missing = "jax", "tensorstore", "etils", "platformdirs"
sys.modules.update(dict.fromkeys(missing))
from mixer_jax.categories import aggregate
from mixer_jax.runtime.ownership import folder_lock
with folder_lock.hold(sys.argv[1], "--out"):
    sys.exit(aggregate.main(["--events=a.csv", f"--out={sys.argv[1]}"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env=beam_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"Another run is using {tmp_path}: process" in done.stderr
