"""Suites on a tiny table: what is run, kept and resumed."""

import json

import pytest

from mixer_jax.experiments import __main__ as command
from mixer_jax.experiments import methods, results_log, suites
from mixer_jax.experiments.suites import Method
from mixer_jax.runtime import command as command_lib

TINY = [
    Method("frozen encoders", "Floors", suites.FROZEN),
    Method("linear map", "Floors", suites.LINEAR),
    Method("triplets", "Losses", loss="triplet", fusion="image_only"),
]
TIMES = ("figures", "rank_seconds")


@pytest.fixture
def tiny(tiny_table, tiny_encoders, tmp_path, monkeypatch):
    """Runs the suite `tiny`; returns its rows without times."""
    monkeypatch.setitem(suites.SUITES, "tiny", lambda: TINY)

    def run(out="out", *more, code=0, trials=2, steps=3):
        arguments = ["--suite=tiny", f"--data=colors={tiny_table.parent}"]
        arguments += [f"--out={tmp_path / out}", f"--trials={trials}"]
        arguments += ["--seeds=2", f"--steps={steps}", "--batch-size=4"]
        assert command.main([*arguments, *more]) == code
        return read(tmp_path / out)

    return run


def read(folder):
    text = (folder / results_log.NAME).read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in rows]


@pytest.fixture
def runs(monkeypatch):
    """The methods and seeds that are run, as they are run."""
    seen, run = [], methods.Runner.run

    def observed(self, hyper, seed):
        if len(seen) == observed.limit:
            raise command_lib.Interrupted
        seen.append((self._method.name, seed))
        return run(self, hyper, seed)

    observed.limit = -1
    monkeypatch.setattr(methods.Runner, "run", observed)
    return seen, observed


def test_interrupted_suite_equals_an_uninterrupted_one(
    tiny, runs, tmp_path, capsys
):
    seen, observed = runs
    whole = tiny()
    assert seen == [
        ("frozen encoders", 1),
        *(("linear map", seed) for seed in (0, 0, 1, 2)),
        *(("triplets", seed) for seed in (0, 0, 1, 2)),
    ]
    # A suite killed in the middle of a run, and of writing a line.
    del seen[:]
    observed.limit = 3
    tiny("parts", code=command_lib.INTERRUPTED)
    assert len(read(tmp_path / "parts")) == 3
    path = tmp_path / "parts" / results_log.NAME
    path.write_bytes(path.read_bytes()[:-40])
    observed.limit = -1
    capsys.readouterr()
    assert tiny("parts") == whole
    assert "cut off the last line" in capsys.readouterr().out
    assert len(seen) == 3 + 7
    # Nothing is left to do.
    del seen[:]
    assert tiny("parts") == whole
    assert "are finished" in capsys.readouterr().out
    assert not seen


def test_only_final_runs_see_the_test_split(tiny):
    rows = tiny("out", "--methods=linear")
    assert [row["split"] for row in rows] == ["val", "val", "test", "test"]
    assert [row["kind"] for row in rows] == ["trial"] * 2 + ["final"] * 2
    scores = [row["measures"]["identical_at_1"] for row in rows[:2]]
    best = rows[scores.index(max(scores))]
    for row in rows[2:]:
        assert row["hyper"] == best["hyper"]
        assert row["trial"] == best["trial"]
    # Another number of trials draws other values, but keeps the first trial.
    more = tiny("out", "--methods=linear", trials=3)
    assert more[: len(rows)] == rows
    assert [row["trial"] for row in more[4:] if row["kind"] == "trial"] == [
        1,
        2,
    ]


def test_changed_data_are_measured_again(tiny, tiny_table, runs):
    seen, _ = runs
    tiny("out", "--methods=frozen")
    text = tiny_table.read_text()
    tiny_table.write_text(text.replace("blue paint", "navy paint"))
    rows = tiny("out", "--methods=frozen")
    assert len(seen) == len(rows) == 2
    assert rows[0]["content"] != rows[1]["content"]
    tiny("out", "--methods=frozen", steps=4)
    assert len(seen) == 3


def test_suites_share_their_runs(tiny, runs, monkeypatch):
    seen, _ = runs
    rows = tiny("out", "--methods=frozen")
    other = Method("nothing trained", "Other", suites.FROZEN)
    monkeypatch.setitem(suites.SUITES, "tiny", lambda: [other])
    again = tiny()[1:]
    assert len(seen) == len(again) == 1
    assert again[0]["method"] == "nothing trained"
    assert again[0]["ranks"] == rows[0]["ranks"]


def test_damaged_results_are_explained(tiny, tmp_path, capsys):
    tiny("out", "--methods=frozen")
    path = tmp_path / "out" / results_log.NAME
    path.write_text('{"kind": "final"}\n' + path.read_text())
    capsys.readouterr()
    arguments = ["--suite=tiny", f"--out={tmp_path / 'out'}"]
    arguments.append(f"--data=colors={tmp_path / 'data/folds'}")
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"Line 1 of {path} is damaged. Delete this line" in error
    path.write_text(path.read_text().partition("\n")[2])
    assert len(tiny("out", "--methods=frozen")) == 1


def test_unknown_names_are_explained(tiny, tmp_path, capsys):
    arguments = [f"--out={tmp_path / 'out'}", "--data=a=b.csv"]
    assert command.main([*arguments, "--suite=mian"]) == 2
    assert "no suite named 'mian'; did you mean" in capsys.readouterr().err
    arguments.append("--suite=main")
    assert command.main([*arguments, "--methods=linaer map"]) == 2
    assert "no method named 'linaer map'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_left_out_parts_have_to_exist(tiny, tmp_path, capsys, monkeypatch):
    method = Method("without", "Losses", loss="triplet", without="mosaic")
    monkeypatch.setitem(suites.SUITES, "tiny", lambda: [method])
    arguments = ["--suite=tiny", f"--out={tmp_path / 'out'}"]
    arguments.append(f"--data=colors={tmp_path / 'data/folds'}")
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert "the part 'train/mosaic', which fold one of colors" in error
    assert not (tmp_path / "out" / results_log.NAME).exists()
