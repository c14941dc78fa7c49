"""Tests of a run on three hosts over ssh, all simulated locally."""

import shlex
import signal

import pytest

HOSTS = "a me@b c"
# Logs its command and runs it locally.
_SSH = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do if [[ $1 == -o ]]; then shift; fi; shift; done
echo "$1 $2" >>"$LOG"
if [[ -e $1.gone ]]; then exit 255; fi
exec bash -c "$2"
"""
_WAITS = """
trap 'touch "saved$process"; exit 75' TERM
touch "started$process"
for _ in {1..6000}; do sleep 0.01; done
"""


@pytest.fixture
def hosts(project):
    project.program("ssh", _SSH)
    project.environment |= {
        "LOG": str(project.folder / "ssh.txt"),
        "HOSTS": HOSTS,
        "CONFIG": "configs/stage2.py",
        "WORKDIR": "gs://my-bucket/runs/stage2",
    }

    def training(text):
        project.training(f'process=${{7#--process=}}\necho "$*"\n{text}')

    project.set_training = training
    yield project
    for host in HOSTS.split():
        project.run(
            "launch/worker.sh", "end", f"--name=run.{host}", "--grace=0"
        )


def _asked(project, word):
    lines = (project.folder / "ssh.txt").read_text().splitlines()
    return sorted(line for line in lines if f"worker.sh {word}" in line)


def _wait_until_started(project):
    for index, host in enumerate(HOSTS.split()):
        project.wait_for(project.folder / f"started{index}")
        project.wait_for(project.folder / f"runs/launch/run.{host}/process")


def test_every_host_runs_its_process(hosts):
    hosts.set_training("exit 0")
    done = hosts.run(
        "launch/hosts.sh", "run", "--poll=0", "--", "--config.x=a b"
    )
    assert done.returncode == 0, done.stdout
    assert "it finished" in done.stdout
    for index, host in enumerate(HOSTS.split()):
        (start,) = (x for x in _asked(hosts, "start") if f"run.{host} " in x)
        assert shlex.split(start) == [
            *(host, "cd", "--", str(hosts.folder), "&&"),
            *("launch/worker.sh", "start", f"--name=run.{host}", "--"),
            *(".venv/bin/python", "-m", "mixer_jax.main"),
            "--config=configs/stage2.py",
            "--workdir=gs://my-bucket/runs/stage2",
            *("--coordinator=a:8476", "--processes=3", f"--process={index}"),
            "--config.x=a b",
        ]
    log = hosts.run("launch/hosts.sh", "logs", "--host=c").stdout
    assert "--process=2 --config.x=a b\n" in log
    status = hosts.run("launch/hosts.sh", "status").stdout
    assert status.count("exited 0") == 3


def test_a_single_host_needs_no_coordinator(hosts):
    hosts.set_training("exit 0")
    done = hosts.run(
        "launch/hosts.sh", "run", "--poll=0", HOSTS="a", WORKDIR="runs/x"
    )
    assert done.returncode == 0, done.stdout
    (start,) = _asked(hosts, "start")
    assert start.endswith("--workdir=runs/x")


def test_a_failed_host_ends_the_others(hosts):
    hosts.set_training(
        f"if [[ $process == 1 ]]; then until [[ -e started0 && -e started2 ]]; "
        f"do sleep 0.01; done; exit 3; fi\n{_WAITS}"
    )
    done = hosts.run("launch/hosts.sh", "run", "--poll=0")
    assert done.returncode == 3, done.stdout
    assert "it crashed or was killed" in done.stdout
    assert (hosts.folder / "saved0").exists()
    assert (hosts.folder / "saved2").exists()


def test_wrong_input_takes_precedence_over_later_failures(hosts):
    hosts.set_training(
        """
        if [[ $process == 2 ]]; then exit 2; fi
        until [[ -e runs/launch/run.c/exit ]]; do sleep 0.01; done
        exit 3
        """
    )
    done = hosts.run("launch/hosts.sh", "run", "--poll=0")
    assert done.returncode == 2, done.stdout


def test_wrong_input_takes_precedence_even_if_seen_last(hosts):
    hosts.set_training(
        """
        trap 'exit 2' TERM
        touch "started$process"
        until [[ $process == 1 && -e started0 && -e started2 ]]; do
          sleep 0.01
        done
        exit 3
        """
    )
    done = hosts.run("launch/hosts.sh", "run", "--poll=0")
    assert done.returncode == 2, done.stdout


def test_a_signal_makes_all_hosts_save(hosts):
    hosts.set_training(_WAITS)
    with hosts.start("launch/hosts.sh", "run", "--poll=1") as process:
        _wait_until_started(hosts)
        status = hosts.run("launch/hosts.sh", "status").stdout
        assert status.count("running") == 3
        process.send_signal(signal.SIGTERM)
        output = hosts.output(process)
    assert process.returncode == 75, output
    for index in range(3):
        assert (hosts.folder / f"saved{index}").exists()


def test_run_follows_a_run_that_has_started(hosts):
    hosts.set_training(_WAITS)
    first = hosts.start("launch/hosts.sh", "run", "--poll=1")
    with first:
        _wait_until_started(hosts)
        first.kill()
    with hosts.start("launch/hosts.sh", "run", "--poll=0") as second:
        assert "following it" in second.stdout.readline()
        hosts.run("launch/hosts.sh", "stop")
        output = hosts.output(second)
    assert second.returncode == 75, output
    assert len(_asked(hosts, "start")) == 3


def test_the_babysitter_restarts_after_a_failure(hosts):
    hosts.set_training(
        'if [[ ! -e failed$process ]]; then touch "failed$process"; exit 75; fi'
    )
    done = hosts.run(
        "launch/babysit.sh", "--backoff=0", "launch/hosts.sh", "run", "--poll=0"
    )
    assert done.returncode == 0, done.stdout
    assert len(_asked(hosts, "start")) == 6


def test_an_unreachable_host_is_named(hosts):
    hosts.set_training("exit 0")
    (hosts.folder / "c.gone").touch()
    done = hosts.run("launch/hosts.sh", "run", "--poll=0")
    assert done.returncode == 1
    assert "could not be started on all hosts" in done.stdout
    assert "c 'cd --" in done.stdout
