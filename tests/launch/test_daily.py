"""The script that learns from clicks, with a stand-in for Python."""

import os
import signal

import pytest

from mixer_jax.service.stores import generations

# Writes what the project's commands would write, and logs them.
_PYTHON = """\
#!/usr/bin/env bash
if [[ $1 == -c ]]; then exit; fi
echo "${*:2}" >>commands.txt
if [[ $* == *"$FAIL"* && -n ${FAIL:-} ]]; then exit "${CODE:-2}"; fi
if [[ $* == *"$HANG"* && -n ${HANG:-} ]]; then
  touch reached; for _ in {1..6000}; do sleep 0.01; done
fi
day=shop/days/2026-01-31
case "$2 $3" in
  "mixer_jax.index build") mkdir -p shop/index; echo >shop/index/index.json ;;
  "mixer_jax.daily begin")
    if [[ -z ${QUIET:-} ]]; then
      mkdir -p "$day/previous"; echo >"$day/clicks.parquet"
    fi
    ;;
  "mixer_jax.categorize "*) echo >"$day/found.csv" ;;
  "mixer_jax.compare "*) echo >"$day/comparison.json" ;;
esac
"""
SHOP = ("--folder=shop", "--events=events", "--catalog=catalog.csv")
DAY = ("launch/daily.sh", *SHOP, "--day=2026-01-31")
FIRST = (*DAY, "--model=runs/first")


@pytest.fixture
def fresh(project):
    """A project whose environment is up to date."""
    python = project.folder / ".venv/bin/python"
    python.write_text(_PYTHON)
    wanted = "".join(
        (project.folder / name).read_text()
        for name in ("requirements.txt", "pyproject.toml")
    )
    (project.folder / ".venv/installed").write_text(wanted)
    (project.folder / "events").mkdir()
    return project


def commands(project):
    """Returns the modules and first arguments that ran since the last call."""
    log = project.folder / "commands.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    names = [line.removeprefix("mixer_jax.").split()[:2] for line in lines]
    forms = ("index", "daily")
    return [" ".join(n) if n[0] in forms else n[0] for n in names]


def test_a_day_is_done_once(fresh):
    done = fresh.run(*FIRST, "--", "--config.steps=9")
    assert done.returncode == 0, done.stdout
    assert "daily.sh --folder=shop --roll-back" in done.stdout
    assert "--previous=shop/days/2026-01-31/previous/found.csv" in done.stdout
    assert "found.csv --config.steps=9\n" in done.stdout
    first = ["index build", "daily begin", "categorize", "main"]
    assert commands(fresh) == [*first, "compare", "daily decide"]
    done = fresh.run(*DAY)
    assert done.returncode == 0, done.stdout
    assert commands(fresh) == ["index add", "daily decide"]


def test_a_day_without_clicks_ends_well(fresh):
    done = fresh.run(*FIRST, QUIET="yes")
    assert done.returncode == 0, done.stdout
    assert "nothing to learn" in done.stdout
    assert commands(fresh) == ["index build", "daily begin"]


def test_an_interrupted_build_is_resumed(fresh):
    index = fresh.folder / "shop/index"
    index.mkdir(parents=True)
    generations.reserve(index)
    assert fresh.run(*FIRST).returncode == 0
    assert commands(fresh)[0] == "index build"


def test_only_the_first_run_needs_no_folder_of_events(fresh):
    (fresh.folder / "events").rmdir()
    done = fresh.run(*FIRST)
    assert done.returncode == 0, done.stdout
    assert "serve --index=shop/index --events=events\n" in done.stdout
    assert commands(fresh) == ["index build"]
    done = fresh.run(*DAY)
    assert done.returncode == 2
    assert "--events=events: there is no such folder" in done.stdout
    assert not commands(fresh)


@pytest.mark.parametrize(
    ("step", "code"), [("categorize", 2), ("main", 75), ("compare", 1)]
)
def test_a_failed_step_is_repeated(fresh, step, code):
    done = fresh.run(*FIRST, FAIL=f"mixer_jax.{step} ", CODE=str(code))
    assert done.returncode == code, done.stdout
    assert commands(fresh)[-1] == step
    assert fresh.run(*FIRST).returncode == 0
    after = commands(fresh)
    # A finished training only reports that it is finished.
    assert after[:2] == ["index add", "main" if step == "compare" else step]
    assert after[-2:] == ["compare", "daily decide"]


def test_a_signal_ends_the_script_and_its_command(fresh):
    with fresh.start(*FIRST, HANG="mixer_jax.main ") as process:
        fresh.wait_for(fresh.folder / "reached")
        os.killpg(process.pid, signal.SIGINT)
        output = fresh.output(process)
    assert process.returncode == 75, output
    assert "run the same command again to resume" in output


def test_roll_back_needs_only_the_folder(fresh):
    done = fresh.run("launch/daily.sh", "--folder=shop", "--roll-back")
    assert done.returncode == 0, done.stdout
    assert "mixer_jax.index roll-back --index=shop/index" in done.stdout
    assert commands(fresh) == ["index roll-back"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SHOP[1:], "--folder=SHOP is missing"),
        (SHOP[:1] + SHOP[2:], "--events=EVENTS is missing"),
        (SHOP[:2], "--catalog=TABLE is missing"),
        (SHOP, "no index in shop/index yet; name its first model with"),
        ((*SHOP, "--day=today"), "--day=today is not a date"),
        ((*SHOP, "--day=2026-02-29"), "--day=2026-02-29 is not a date"),
        ((*SHOP, "--day=2026-04-31"), "--day=2026-04-31 is not a date"),
        ((*SHOP, "--day=2026-09-00"), "--day=2026-09-00 is not a date"),
        ((*SHOP, "--day=2026-13-08"), "--day=2026-13-08 is not a date"),
        ((*SHOP, "--day=9996-02-29"), "--day=9996-02-29 is in the future"),
        (("--folder=gs://b/x", *SHOP[1:]), "--folder=gs://b/x is not a local"),
        ((*SHOP, "--events=http://x"), "--events=http://x is not a local path"),
        (
            (*SHOP[:2], "--roll-back"),
            "--roll-back does not use --events; remove it",
        ),
        (
            (SHOP[0], "--roll-back", "--", "--config.steps=9"),
            "--roll-back does not use training options",
        ),
        ((*SHOP, "--tolerance=1.5"), "--tolerance=1.5 is not a number from 0"),
        ((*SHOP, "--fast"), "unknown option --fast; known: --folder=SHOP"),
        (("--folder=",), "unknown option --folder="),
    ],
)
def test_wrong_options_are_refused(fresh, words, message):
    done = fresh.run("launch/daily.sh", *words)
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert not commands(fresh)
