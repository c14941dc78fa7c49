"""Tests of worker.sh: a background process, its status and its end."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

_SAVES = """
trap 'echo saved; exit 75' TERM
trap 'echo profiled >profile.txt' USR1
touch started.txt
for _ in {1..6000}; do sleep 0.01; done
"""


@pytest.fixture
def worker(project):
    def run(subcommand, *words):
        return project.run("launch/worker.sh", subcommand, "--name=it", *words)

    yield run
    run("end", "--grace=0")


def _state(worker):
    words = worker("status").stdout.split()
    assert words[:2] == ["worker", f"{os.uname().nodename}:it"]
    return " ".join(words[2:])


def test_states_from_absent_to_exited(worker, project):
    assert _state(worker) == "absent"
    done = worker("start", "--", "bash", "-c", "echo a line; exit 3")
    assert done.returncode == 0
    project.wait_for(project.folder / "runs/launch/it/exit")
    assert _state(worker) == "exited 3"
    output = worker("logs").stdout
    assert "+ bash -c 'echo a line; exit 3'" in output
    assert "\na line\n" in output
    assert "a line" not in worker("logs", "--lines=0").stdout


def test_end_saves_and_the_next_start_appends_to_the_log(worker, project):
    worker("start", "--", "bash", "-c", _SAVES)
    project.wait_for(project.folder / "started.txt")
    assert _state(worker) == "running"
    again = worker("start", "--", "true")
    assert again.returncode == 1
    assert "still running" in again.stdout
    worker("profile")
    project.wait_for(project.folder / "profile.txt")
    assert "exited 75" in worker("end").stdout
    worker("start", "--", "true")
    project.wait_for(project.folder / "runs/launch/it/exit")
    assert _state(worker) == "exited 0"
    assert "saved" in worker("logs").stdout  # from the previous run


def test_stop_is_distinguished_from_end(worker, project):
    worker("start", "--", "bash", "-c", _SAVES)
    project.wait_for(project.folder / "started.txt")
    assert "stopped 75" in worker("stop").stdout
    assert _state(worker) == "stopped 75"


def test_a_process_that_does_not_save_in_time_is_killed(worker, project):
    loop = "for _ in {1..6000}; do sleep 0.01; done"
    deaf = f"trap '' TERM; touch started.txt; {loop}"
    worker("start", "--", "bash", "-c", deaf)
    project.wait_for(project.folder / "started.txt")
    assert "exited 137" in worker("end", "--grace=0").stdout


def test_a_process_ended_by_a_reboot_is_lost(worker, project):
    worker("start", "--", "bash", "-c", _SAVES)
    project.wait_for(project.folder / "started.txt")
    for name in ("attendant", "process"):
        record = project.folder / "runs/launch/it" / name
        number, began = record.read_text().splitlines()
        # The ID now belongs to the test process, which must not be killed.
        record.write_text(f"{os.getpid()}\n{began} before\n")
    assert _state(worker) == "lost"
    worker("end")
    os.kill(int(number), signal.SIGTERM)
    project.wait_for(project.folder / "runs/launch/it/exit")


def _began(pid):
    """Returns the boot ID and the start time, as worker.sh records them."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"{boot_id.strip()} {stat.rpartition(')')[2].split()[19]}"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_counts_as_running_after_the_clock_is_set(worker, project):
    project.program("ps", "#!/bin/sh\ndate +%N\n")  # a different date each time
    worker("start", "--", "bash", "-c", _SAVES)
    project.wait_for(project.folder / "started.txt")
    assert _state(worker) == "running"
    assert "stopped 75" in worker("stop").stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_that_ends_during_a_look_is_not_lost(worker):
    """This is a race: an earlier version reported 5 of 60 such runs as lost."""
    for _ in range(30):
        worker("start", "--", "sleep", "0.1")
        while (state := _state(worker)) == "running":
            pass
        assert state == "exited 0"


def test_status_waits_for_a_late_exit_code(worker, project):
    """The process has ended; its attendant has not yet written the code."""
    folder = project.folder / "runs/launch/it"
    worker("start", "--", "bash", "-c", _SAVES)
    project.wait_for(project.folder / "started.txt")
    with subprocess.Popen(["sleep", "60"]) as busy:
        (folder / "attendant").write_text(f"{busy.pid}\n{_began(busy.pid)}\n")
        worker("stop")
        (folder / "exit").unlink()
        later = threading.Timer(2.5, (folder / "exit").write_text, ("75\n",))
        later.start()
        assert _state(worker) == "stopped 75"
        later.join()
        (folder / "exit").unlink()
        busy.kill()
    assert _state(worker) == "lost"


def test_a_process_outlives_the_session_that_started_it(worker, project):
    # Like ssh, this waits until no process holds the output open.
    done = worker("start", "--", "bash", "-c", _SAVES)
    assert done.stdout.endswith("it running\n")
    os.killpg(project.sessions[-1], signal.SIGHUP)
    assert _state(worker) == "running"


def test_setup_creates_the_environment_and_copies_the_data(project):
    (project.folder / ".venv/bin/python").unlink()
    project.program("gcloud", "#!/bin/sh\necho gcloud $*\n")
    done = project.run(
        "launch/worker.sh", "setup", "--extra=tpu", "--data=gs://my-bucket/data"
    )
    assert done.returncode == 0, done.stdout
    assert "--constraint requirements.txt libtpu==" in done.stdout
    assert "--editable '.[tpu]'" in done.stdout
    assert "rsync --recursive gs://my-bucket/data data" in done.stdout
    assert (project.folder / ".venv/bin/python").exists()
    again = project.run("launch/worker.sh", "setup", "--extra=tpu")
    assert "is up to date" in again.stdout
    without = project.run("launch/worker.sh", "setup")
    assert "is up to date" not in without.stdout


def test_setup_installs_python_if_the_hosts_is_too_old(project):
    """This is the case on TPU VMs, whose Ubuntu 22.04 has Python 3.10."""
    found = project.environment.pop("PYTHON")
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python"):
        project.program(
            name,
            f"""#!/bin/sh
            case "$*" in
              -c*) exit 1 ;;
              *"uv python find"*) echo {found} ;;
            esac
            """,
        )
    done = project.run("launch/worker.sh", "setup")
    assert done.returncode == 0, done.stdout
    assert "+ python3 -m pip install --quiet --user uv==" in done.stdout
    assert "+ python3 -m uv python install 3.11" in done.stdout
    assert f"+ {found} -m venv .venv" not in done.stdout  # It existed.
    assert "pip install" in done.stdout
