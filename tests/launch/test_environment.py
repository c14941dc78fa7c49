"""Tests of creating the environment, including after interruptions."""

import contextlib
import os
import shutil
import signal

import pytest

# A stand-in for Python: it logs its arguments and does part of the work of pip
# and venv; the first time, it then waits in the step named by $CUT.
_PYTHON = """\
#!/usr/bin/env bash
case "$*" in
  -c*) exec python3 "$@" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*--target*)
    while [[ $1 != --target ]]; do shift; done
    mkdir -p "$2" && touch "$2/half"
    ;;
  "-m pip "*) touch .venv/half ;;
  "-m mixer_jax."* | "-m pytest "*) ;;
  *) exit 9 ;;
esac
echo "$*" >>asked.txt
if [[ -n $CUT && "$*" == *"$CUT"* && ! -e cut.txt ]]; then
  trap 'exit 1' INT
  trap 'exit 143' TERM
  touch cut.txt
  for _ in {1..3000}; do sleep 0.02; done
fi
if [[ -n $FAIL && "$*" == *"$FAIL"* ]]; then exit "$CODE"; fi
case "$*" in
  *.draft*) mv "$2/half" "$2/whole" ;;
  "-m pip "*) mv .venv/half .venv/whole ;;
esac
"""
MOMENTS = ["-m venv", "--requirement", "--editable ."]


@pytest.fixture
def fresh(project):
    """A project whose environment does not exist yet."""
    shutil.rmtree(project.folder / ".venv")
    project.program("stub-python", _PYTHON)
    project.environment |= {"CUT": "", "FAIL": "", "CODE": ""}
    ruff = '#!/bin/sh\necho "ruff $*" >>asked.txt\n'
    project.program("ruff", ruff)
    return project


def _asked(fresh, word):
    lines = (fresh.folder / "asked.txt").read_text().splitlines()
    return [line for line in lines if word in line]


def _cut(fresh, number, group=False, script="launch/quickstart.sh"):
    """Interrupts a script, or its process group, with a signal."""
    with fresh.start(script) as process:
        fresh.wait_for(fresh.folder / "cut.txt")
        (os.killpg if group else os.kill)(process.pid, number)
        output = fresh.output(process)
    return process.returncode, output


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGTERM, False),
        (signal.SIGINT, True),  # like Ctrl-C in a terminal
        (signal.SIGHUP, True),
    ],
)
def test_an_interrupted_installation_starts_over(fresh, moment, number, group):
    fresh.environment["CUT"] = moment
    code, output = _cut(fresh, number, group)
    assert code == 75, output
    assert "the same command again to resume" in output
    (fresh.folder / ".venv/rest").touch()
    done = fresh.run("launch/quickstart.sh")
    assert done.returncode == 0, done.stdout
    assert len(_asked(fresh, "-m venv")) == 2
    assert not (fresh.folder / ".venv/rest").exists()
    assert (fresh.folder / ".venv/whole").exists()
    again = fresh.run("launch/quickstart.sh")
    assert "is up to date" in again.stdout


def test_an_installation_killed_by_a_power_cut_starts_over(fresh):
    fresh.environment["CUT"] = "--editable ."
    with fresh.start("launch/quickstart.sh") as process:
        fresh.wait_for(fresh.folder / "cut.txt")
        for pid in fresh.remaining():
            # Some processes exit when another one is killed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        fresh.output(process)
    done = fresh.run("launch/quickstart.sh")
    assert done.returncode == 0, done.stdout
    assert len(_asked(fresh, "-m venv")) == 2


def test_a_failure_of_pip_keeps_the_environment(fresh):
    """Without a network, for example, the installed packages still work."""
    assert fresh.run("launch/worker.sh", "setup").returncode == 0
    done = fresh.run(
        *("launch/worker.sh", "setup", "--extra=tpu"), FAIL="libtpu", CODE="1"
    )
    assert done.returncode == 1
    assert "pip failed, see above" in done.stdout
    done = fresh.run("launch/worker.sh", "setup", "--extra=tpu")
    assert done.returncode == 0, done.stdout
    assert len(_asked(fresh, "-m venv")) == 1


def test_a_python_without_venv_is_an_error(fresh):
    broken = {"FAIL": "-m venv", "CODE": "1"}
    for _ in range(2):
        done = fresh.run("launch/quickstart.sh", **broken)
        assert done.returncode == 1
        assert "install the package python3-venv" in " ".join(
            done.stdout.split()
        )
    assert fresh.run("launch/quickstart.sh").returncode == 0
    assert len(_asked(fresh, "-m venv")) == 3


def test_concurrent_installations_wait_for_each_other(fresh):
    fresh.environment["CUT"] = "--requirement"
    with fresh.start("launch/quickstart.sh") as first:
        fresh.wait_for(fresh.folder / "cut.txt")
        with fresh.start("launch/worker.sh", "setup") as second:
            for line in second.stdout:
                if "Waiting for another script" in line:
                    break
            os.killpg(first.pid, signal.SIGTERM)
            assert fresh.output(first)
            output = fresh.output(second)
    assert first.returncode == 75
    assert second.returncode == 0, output
    # Only the second run recreates the unfinished environment.
    assert len(_asked(fresh, "-m venv")) == 2
    assert "is up to date" in fresh.run("launch/worker.sh", "setup").stdout


def test_a_waiting_script_does_not_install_again(fresh):
    fresh.program(
        "slow-python",
        """#!/usr/bin/env bash
        if [[ $* == "-m venv "* ]]; then
          touch begun.txt
          until [[ -e go.txt ]]; do sleep 0.01; done
        fi
        exec stub-python "$@"
        """,
    )
    slow = {"PYTHON": str(fresh.programs / "slow-python")}
    with fresh.start("launch/worker.sh", "setup", **slow) as first:
        fresh.wait_for(fresh.folder / "begun.txt")
        with fresh.start("launch/worker.sh", "setup") as second:
            for line in second.stdout:
                if "Waiting for another script" in line:
                    break
            (fresh.folder / "go.txt").touch()
            fresh.output(first)
            fresh.output(second)
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(_asked(fresh, "--requirement")) == 1


def test_separate_packages_are_installed_completely_or_not_at_all(fresh):
    fresh.environment["CUT"] = "torch"
    script = "launch/test.sh"
    code, output = _cut(fresh, signal.SIGTERM, script=script)
    assert code == 75, output
    assert not list((fresh.folder / ".venv").glob("torch==*[0-9]"))
    shutil.copy(fresh.programs / "ruff", fresh.folder / ".venv/bin/ruff")
    done = fresh.run(script)
    assert done.returncode == 0, done.stdout
    for name in ("torch", "apache-beam"):
        (folder,) = (fresh.folder / ".venv").glob(f"{name}==*")
        assert [path.name for path in folder.iterdir()] == ["whole"]
    asked = len(_asked(fresh, "--target"))
    assert fresh.run(script).returncode == 0
    assert len(_asked(fresh, "--target")) == asked


def test_another_python_runs_the_tests_that_other_pins_affect(fresh):
    fresh.run("launch/worker.sh", "setup")
    shutil.copy(fresh.programs / "ruff", fresh.folder / ".venv/bin/ruff")
    done = fresh.run("launch/test.sh")
    assert done.returncode == 0, done.stdout
    assert "No other Python found" in done.stdout
    assert len(_asked(fresh, "-m pytest")) == 1
    newer = _PYTHON.replace('-c*) exec python3 "$@" ;;', "-c*) ;;")
    for version in ("3.11", "3.13"):
        fresh.program(f"python{version}", newer)
    done = fresh.run("launch/test.sh")
    assert done.returncode == 0, done.stdout
    assert len(_asked(fresh, "-m venv .venv/other")) == 1
    whole, some = _asked(fresh, "-m pytest")[1:]
    assert "tests/" not in whole
    assert some.endswith(
        "-m not slow tests/models tests/proxies tests/training"
    )
    fresh.environment |= {"FAIL": "tests/models", "CODE": "1"}
    assert fresh.run("launch/test.sh").returncode == 1


def test_interrupted_tests_can_end_their_processes(fresh):
    fresh.run("launch/worker.sh", "setup")
    shutil.copy(fresh.programs / "ruff", fresh.folder / ".venv/bin/ruff")
    fresh.environment["CUT"] = "-m pytest"
    code, output = _cut(fresh, signal.SIGTERM, script="launch/test.sh")
    assert code == 75, output


@pytest.mark.parametrize("code", [1, 2, 70, 75])
def test_the_quickstart_exits_with_a_failed_commands_code(fresh, code):
    done = fresh.run(
        "launch/quickstart.sh", FAIL="mixer_jax.main", CODE=str(code)
    )
    assert done.returncode == code
    assert "this command failed: .venv/bin/python -m mixer_jax.main" in (
        done.stdout
    )
    assert not _asked(fresh, "mixer_jax.evaluate")


@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_an_interrupted_quickstart_lets_the_training_save(fresh, number, group):
    fresh.environment["CUT"] = "mixer_jax.main"
    code, output = _cut(fresh, number, group)
    assert code == 75, output
    done = fresh.run("launch/quickstart.sh")
    assert done.returncode == 0, done.stdout
    assert len(_asked(fresh, "-m venv")) == 1


def test_sigterm_works_if_other_signals_were_ignored_at_the_start(fresh):
    """This is the case after `nohup launch/quickstart.sh &` in a script."""
    fresh.environment["CUT"] = "mixer_jax.main"
    ignoring = "trap '' HUP INT QUIT; exec launch/quickstart.sh"
    with fresh.start("bash", "-c", ignoring) as process:
        fresh.wait_for(fresh.folder / "cut.txt")
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            os.kill(process.pid, number)
        process.send_signal(signal.SIGTERM)
        output = fresh.output(process)
    assert process.returncode == 75, output


def test_an_environment_that_cannot_be_created_is_an_error(fresh):
    (fresh.folder / ".venv").write_text("")
    done = fresh.run("launch/quickstart.sh")
    assert done.returncode == 2
    assert "the folder .venv in " in done.stdout
