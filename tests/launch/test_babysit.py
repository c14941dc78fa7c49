"""Tests of the babysitter, on commands that end in every way a run can."""

import os
import signal
import sys

import pytest

# On its n-th run, exits with its n-th argument.
_SCRIPT = """\
#!/usr/bin/env bash
echo started >>runs.txt
n=$(wc -l <runs.txt)
exit "${!n:-0}"
"""


@pytest.fixture
def babysit(project):
    project.program("ends", _SCRIPT)

    def run(*codes, options=()):
        command = ["launch/babysit.sh", "--backoff=0", *options, "ends"]
        done = project.run(*command, *map(str, codes))
        starts = (project.folder / "runs.txt").read_text().count("started")
        return done, starts

    return run


def test_restarts_after_preemptions_until_it_finishes(babysit):
    done, starts = babysit(75, 75, 0)
    assert done.returncode == 0
    assert starts == 3
    assert done.stdout.count("it was preempted, and its state is saved") == 2
    assert "it finished" in done.stdout


def test_does_not_restart_wrong_input(babysit):
    done, starts = babysit(2, 0)
    assert done.returncode == 2
    assert starts == 1
    assert "which a restart does not fix" in done.stdout


@pytest.mark.parametrize("code", [1, 70, 137])
def test_restarts_other_failures(babysit, code):
    done, starts = babysit(code, 0)
    assert done.returncode == 0
    assert starts == 2


def test_gives_up_without_progress_and_exits_with_the_last_code(babysit):
    done, starts = babysit(1, 70, 3, 0, options=["--max-restarts=2"])
    assert done.returncode == 3
    assert starts == 3
    assert "Giving up after 2 restarts" in done.stdout


def test_a_save_counts_as_progress_without_a_workdir(babysit):
    done, starts = babysit(1, 75, 1, 75, 1, 0, options=["--max-restarts=2"])
    assert done.returncode == 0
    assert starts == 6


@pytest.mark.parametrize("stages", [("",), ("stage1/", "stage2/")])
def test_progress_is_a_later_checkpoint(project, stages):
    """This holds for a stage and a curriculum, and for any exit code."""
    project.program(
        "ends",
        f"""#!/usr/bin/env bash
        echo started >>runs.txt
        n=$(wc -l <runs.txt)
        if ((n <= 3)); then
          for stage in {" ".join(f"work/{stage}" for stage in stages)}; do
            # 9 comes before 10: the order is numeric.
            mkdir -p "${{stage}}checkpoints/$((n + 7))"
          done
        fi
        # A checkpoint that is being saved does not count.
        mkdir -p "work/{stages[0]}checkpoints/$((n + 90)).orbax-tmp"
        exit 75
        """,
    )
    done = project.run(
        "launch/babysit.sh",
        "--workdir=work",
        "--max-restarts=2",
        "--backoff=0",
        "ends",
    )
    assert done.returncode == 75
    starts = (project.folder / "runs.txt").read_text().count("started")
    assert starts == 5  # three runs that save, two restarts without progress
    assert f"It reached step {10 * len(stages)}." in done.stdout


def test_progress_in_a_bucket(project):
    project.program(
        "gcloud",
        """#!/usr/bin/env bash
        echo "gcloud $*" >>gcloud.txt
        if [[ $* != "storage ls gs://my-bucket/run/checkpoints/" ]]; then
          echo "One or more URLs matched no objects." >&2
          exit 1
        fi
        n=$(wc -l <runs.txt 2>/dev/null || echo 0)
        for step in 0 $((n < 3 ? n : 3))00; do
          echo "gs://my-bucket/run/checkpoints/$step/"
        done
        """,
    )
    project.program("ends", _SCRIPT)
    done = project.run(
        "launch/babysit.sh",
        "--workdir=gs://my-bucket/run",
        "--backoff=0",
        "--max-restarts=1",
        "ends",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
    )
    assert done.returncode == 1
    assert "It reached step 300." in done.stdout
    assert (project.folder / "runs.txt").read_text().count("started") == 4
    assert (
        "storage ls gs://my-bucket/run/*/checkpoints/"
        in (project.folder / "gcloud.txt").read_text()
    )


def test_each_restart_waits_twice_as_long(project):
    project.program("sleep", "#!/bin/sh\necho $1 >>slept.txt\n")
    project.run(
        "launch/babysit.sh", "--backoff=40", "--max-restarts=6", "false"
    )
    slept = (project.folder / "slept.txt").read_text().split()
    assert slept == ["40", "80", "160", "320", "600", "600"]


def test_stops_on_a_code_and_at_a_time(babysit, project):
    done, starts = babysit(75, 0, options=["--stop-on=75"])
    assert (done.returncode, starts) == (75, 1)
    (project.folder / "runs.txt").unlink()
    done, starts = babysit(3, 0, options=["--stop-at=1"])
    assert (done.returncode, starts) == (3, 1)
    (project.folder / "runs.txt").unlink()
    done, starts = babysit(3, 0, options=["--stop-at=99999999999"])
    assert (done.returncode, starts) == (0, 2)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_forwards_signals_and_ends(project, number):
    project.program(
        "saves",
        """#!/usr/bin/env bash
        trap 'echo saved >saved.txt; exit 75' TERM
        trap 'echo profiled >profile.txt' USR1
        echo started >>runs.txt
        for _ in {1..6000}; do sleep 0.01; done
        """,
    )
    with project.start("launch/babysit.sh", "--backoff=0", "saves") as process:
        project.wait_for(project.folder / "runs.txt")
        process.send_signal(signal.SIGUSR1)
        project.wait_for(project.folder / "profile.txt")
        process.send_signal(number)
        output = project.output(process)
    assert process.returncode == 75, output
    assert (project.folder / "saved.txt").exists()
    assert (project.folder / "runs.txt").read_text() == "started\n"


def test_ctrl_c_on_a_terminal_is_one_signal(project):
    """Ctrl-C signals the whole group; a second signal would prevent a save."""
    project.program(
        "saves",
        f"""#!{sys.executable}
import pathlib, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(number))
pathlib.Path("runs.txt").touch()
while not got:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(75 if got == [signal.SIGTERM] else 1)
""",
    )
    command = ["launch/babysit.sh", "--backoff=0", "saves"]
    with project.start(*command) as process:
        project.wait_for(project.folder / "runs.txt")
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        output = project.output(process)
    assert process.returncode == 75, output


def test_a_signal_ends_the_wait_for_a_restart(project):
    command = ["launch/babysit.sh", "--backoff=600"]
    script = "echo >runs.txt; exit 3"
    with project.start(*command, "bash", "-c", script) as process:
        output = ""
        for line in process.stdout:
            output += line
            if "Restart 1" in line:
                break
        process.send_signal(signal.SIGTERM)
        output += project.output(process)
    assert process.returncode == 3, output


def test_paths_are_relative_to_the_callers_folder(project):
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    project.program("ends", "#!/bin/sh\npwd >where.txt\n")
    script = "cd elsewhere && ../launch/babysit.sh ends"
    assert project.run("bash", "-c", script).returncode == 0
    assert (elsewhere / "where.txt").read_text().strip() == str(elsewhere)


def test_restarts_continue_if_nothing_can_be_printed(project):
    """This happens if the terminal is closed or the log's disk is full."""
    project.program("ends", _SCRIPT)
    script = "launch/babysit.sh --backoff=0 ends 75 1 3 2 >/dev/full 2>&1"
    assert project.run("bash", "-c", script).returncode == 2
    assert (project.folder / "runs.txt").read_text().count("started") == 4


def test_an_error_that_cannot_be_printed_keeps_its_code(project):
    script = "launch/babysit.sh no-such-program >/dev/full 2>&1"
    assert project.run("bash", "-c", script).returncode == 2


def test_a_dry_run_that_cannot_be_printed_fails(project):
    script = "launch/babysit.sh --dry-run ls >/dev/full"
    done = project.run("bash", "-c", script)
    assert done.returncode == 1
    assert "error: the dry run cannot be printed." in done.stdout
