"""Tests of a TPU VM pod, with a fake gcloud that simulates two hosts."""

import signal

import pytest

# Keeps the pod's state in pod.txt and each host's home in host0 and host1. The
# pod is preempted once preempt.txt exists: its hosts and their processes are
# gone. For each line of outage.txt, one query of the state fails.
_GCLOUD = """\
#!/usr/bin/env bash
cd "$CLOUD"
echo "$*" >>gcloud.txt
remove_hosts() {
  for process in host?/mixer_jax/runs/launch/*/process; do
    if [[ -e $process ]]; then kill -KILL "$(head -1 "$process")"; fi
  done 2>/dev/null
  rm -rf host0 host1
}
hosts="host0 host1"
code=0
case "$*" in
  *"queued-resources create "*)
    echo ACTIVE >pod.txt
    mkdir $hosts
    ;;
  *"queued-resources describe "*)
    if [[ ! -e pod.txt ]]; then
      echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2
      exit 1
    fi
    if [[ -s outage.txt ]]; then
      sed -i 1d outage.txt
      echo "UNAVAILABLE: try again" >&2
      exit 1
    fi
    if [[ -e preempt.txt ]]; then
      rm preempt.txt
      remove_hosts
      echo SUSPENDED >pod.txt
    fi
    cat pod.txt
    ;;
  *"queued-resources delete "*)
    remove_hosts
    rm pod.txt
    ;;
  *"tpu-vm describe "*) echo 2 ;;
  *"tpu-vm scp "*)
    for host in $hosts; do cp "$OLDPWD/$5" "$host/${6#*:}"; done
    ;;
  *"tpu-vm ssh "*)
    if [[ $* == *"--worker=1 "* ]]; then hosts=host1; fi
    command=${!#}
    for host in $hosts; do
      (cd "$host" && bash -c "${command#--command=}") || code=$?
    done
    ;;
  "storage ls "*) ls -d ${3/gs:\\/\\/my-bucket/bucket}* 2>/dev/null ;;
  *) code=9 ;;
esac
exit $code
"""


@pytest.fixture
def pod(project):
    cloud = project.folder.parent / "cloud"
    cloud.mkdir()
    project.program("gcloud", _GCLOUD)
    project.environment |= {
        "CLOUD": str(cloud),
        "PROJECT": "my-project",
        "ZONE": "us-west4-a",
        "NAME": "stage2",
        "ACCELERATOR": "v5litepod-8",
        "RUNTIME": "v2-alpha-tpuv5-lite",
        "CONFIG": "configs/stage2.py",
        "WORKDIR": "gs://my-bucket/runs/stage2",
    }
    project.cloud = cloud
    yield project
    if (cloud / "pod.txt").exists():
        project.run("launch/tpu_vm.sh", "delete")


def _asked(pod):
    """Returns the kinds of gcloud commands that were run, except queries."""
    kinds = {
        "queued-resources create": "create",
        "queued-resources delete": "delete",
        "tpu-vm scp": "copy",
        "worker.sh setup": "setup",
        "worker.sh start": "start",
        "worker.sh end": "end",
    }
    lines = (pod.cloud / "gcloud.txt").read_text().splitlines()
    return [
        kind for line in lines for word, kind in kinds.items() if word in line
    ]


def _babysit(pod, *options):
    return ("launch/tpu_vm.sh", "babysit", "--poll=0", "--backoff=0", *options)


def test_all_steps_by_hand(pod):
    pod.training('echo "$*"; exit 0')
    assert pod.run("launch/tpu_vm.sh", "create", "--spot").returncode == 0
    assert pod.run("launch/tpu_vm.sh", "setup").returncode == 0
    done = pod.run("launch/tpu_vm.sh", "status")
    assert "The pod stage2: ACTIVE" in done.stdout
    assert done.stdout.count("absent") == 2
    done = pod.run("launch/tpu_vm.sh", "run", "--", "--config.steps=3")
    assert done.returncode == 0, done.stdout
    for host in ("host0", "host1"):
        state = pod.cloud / host / "mixer_jax/runs/launch"
        pod.wait_for(state / "my-bucket-runs-stage2/exit")
    assert pod.run("launch/tpu_vm.sh", "status").stdout.count("exited 0") == 2
    log = pod.run("launch/tpu_vm.sh", "logs", "--worker=1").stdout
    assert log.endswith(
        "-m mixer_jax.main --config=configs/stage2.py "
        "--workdir=gs://my-bucket/runs/stage2 --config.steps=3\n"
    )
    assert log.count("mixer_jax.main") == 2  # the command and its output
    assert pod.run("launch/tpu_vm.sh", "delete").returncode == 0
    done = pod.run("launch/tpu_vm.sh", "status")
    assert "The pod stage2: ABSENT" in done.stdout
    assert "--spot" in (pod.cloud / "gcloud.txt").read_text()


def test_babysits_through_a_preemption(pod):
    """ACTIVE, then SUSPENDED, then ACTIVE again until it finishes."""
    pod.training(
        """
        if [[ -e $CLOUD/second.txt ]]; then exit 0; fi
        if [[ $PWD == */host1/* ]]; then
          touch "$CLOUD/second.txt" "$CLOUD/preempt.txt"
        fi
        for _ in {1..6000}; do sleep 0.01; done
        """
    )
    done = pod.run(*_babysit(pod, "--spot"))
    assert done.returncode == 0, done.stdout
    once = ["create", "copy", "setup", "start"]
    assert _asked(pod) == [*once, "delete", *once]
    output = done.stdout
    states = ["ABSENT", "ACTIVE", "SUSPENDED", "ABSENT", "ACTIVE"]
    assert [
        line.rpartition(": ")[2].rstrip(".")
        for line in output.splitlines()
        if "The pod stage2: " in line
    ] == states
    assert "it finished" in output
    assert "Restart" not in output  # A preemption is not a failure.


def test_restarts_a_failure_but_not_wrong_input(pod):
    pod.training(
        """
        if [[ -e failed.txt ]]; then exit 2; fi
        touch failed.txt
        exit 70
        """
    )
    done = pod.run(*_babysit(pod))
    assert done.returncode == 2, done.stdout
    asked = _asked(pod)
    assert asked.count("start") == 2
    assert asked.count("setup") == asked.count("create") == 1
    assert "its watchdog ended it" in done.stdout


def test_gives_up_without_progress(pod):
    pod.training("exit 1")
    done = pod.run(*_babysit(pod, "--max-restarts=1"))
    assert done.returncode == 1
    assert _asked(pod).count("start") == 2


def test_progress_in_the_bucket_resets_the_restarts(pod):
    pod.training(
        """
        step=$(ls "$CLOUD/bucket/runs/stage2/checkpoints" 2>/dev/null | wc -l)
        if [[ $PWD == */host1/* ]]; then
          if ((step == 4)); then exit 2; fi
          mkdir -p "$CLOUD/bucket/runs/stage2/checkpoints/$((step + 1))"
        fi
        exit 75
        """
    )
    done = pod.run(*_babysit(pod, "--max-restarts=1"))
    assert done.returncode == 2, done.stdout
    assert _asked(pod).count("start") == 5


def test_a_stop_during_the_end_of_a_failed_run_is_noticed(pod):
    """One host fails, and the other is stopped before babysit ends it."""
    pod.training(
        """
        if [[ $PWD == */host0/* ]]; then
          until [[ -e $CLOUD/ready.txt ]]; do sleep 0.01; done
          exit 1
        fi
        trap 'touch runs/launch/my-bucket-runs-stage2/stopped; exit 75' TERM
        touch "$CLOUD/ready.txt"
        for _ in {1..6000}; do sleep 0.01; done
        """
    )
    done = pod.run(*_babysit(pod, "--max-restarts=1"))
    assert "The run was stopped." in done.stdout
    assert done.returncode == 1, done.stdout
    assert _asked(pod).count("start") == 1


def test_follows_a_run_and_ends_when_it_is_stopped(pod):
    pod.training(
        """
        trap 'exit 75' TERM
        touch started.txt
        for _ in {1..6000}; do sleep 0.01; done
        """
    )
    for subcommand in ("create", "setup", "run"):
        pod.run("launch/tpu_vm.sh", subcommand)
    with pod.start(*_babysit(pod)) as process:
        for line in process.stdout:
            if "running" in line:
                break
        for host in ("host0", "host1"):
            pod.wait_for(pod.cloud / host / "mixer_jax/started.txt")
        assert pod.run("launch/tpu_vm.sh", "stop").returncode == 0
        output = pod.output(process)
    assert process.returncode == 75, output
    assert "The run was stopped." in output
    assert _asked(pod).count("start") == 1


def test_the_run_continues_without_its_babysitter(pod):
    pod.training("for _ in {1..6000}; do sleep 0.01; done")
    with pod.start(*_babysit(pod)) as process:
        for line in process.stdout:
            if "running" in line:
                break
        process.send_signal(signal.SIGTERM)
        output = pod.output(process)
    assert process.returncode == 75
    assert "The run continues without a babysitter" in output
    assert pod.run("launch/tpu_vm.sh", "status").stdout.count("running") == 2


def test_a_run_that_has_ended_is_started_again(pod):
    pod.training("exit 2")
    assert pod.run(*_babysit(pod)).returncode == 2
    pod.training("exit 0")  # The input was fixed.
    assert pod.run(*_babysit(pod)).returncode == 0
    assert _asked(pod).count("setup") == 2


def test_prints_why_gcloud_fails(pod):
    pod.program(
        "gcloud", "#!/bin/sh\necho PERMISSION_DENIED: not yours >&2\nexit 1\n"
    )
    done = pod.run(*_babysit(pod, "--max-restarts=1"))
    assert done.returncode == 1
    assert done.stdout.count("PERMISSION_DENIED: not yours") == 2


def test_continues_after_an_outage(pod):
    pod.training(
        """
        if [[ $PWD == */host1/* ]]; then seq 3 >"$CLOUD/outage.txt"; fi
        until [[ -e $CLOUD/outage.txt && ! -s $CLOUD/outage.txt ]]; do
          sleep 0.01
        done
        exit 0
        """
    )
    done = pod.run(*_babysit(pod, "--max-restarts=0"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("UNAVAILABLE: try again") == 3
    assert _asked(pod).count("start") == 1


def test_a_failed_request_is_repeated_a_limited_number_of_times(pod):
    gcloud = (pod.programs / "gcloud").read_text()
    pod.program("gcloud", gcloud.replace("echo ACTIVE", "echo FAILED"))
    done = pod.run(*_babysit(pod, "--max-restarts=2"))
    assert done.returncode == 1
    assert _asked(pod) == ["create", "delete", "create", "delete", "create"]
