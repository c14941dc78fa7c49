"""Tests of missing programs, unwritable folders, and Ctrl-C at any moment."""

import os
import pathlib
import shutil
import signal

import pytest

POD = {
    "PROJECT": "p",
    "ZONE": "z",
    "NAME": "stage2",
    "ACCELERATOR": "v5litepod-8",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
}
SLICE = POD | {
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "IMAGE": "my-registry/mixer_jax:1",
    "DATA": "gs://my-bucket/data",
}
HOSTS = POD | {"HOSTS": "a b"}
NODES = POD | {"NODES": "2", "GPUS": "8"}
# Programs present on every machine.
_COMMON = (
    *("awk", "bash", "cat", "date", "dirname", "env", "find", "mkdir", "mv"),
    *("printf", "ps", "python3", "readlink", "rm", "sed", "sleep", "tar"),
    *("uname", "xargs"),
)


def _leave_common_programs(project):
    shutil.rmtree(project.programs)
    project.programs.mkdir()
    for name in _COMMON:
        (project.programs / name).symlink_to(shutil.which(name))
    project.environment["PATH"] = str(project.programs)


@pytest.mark.parametrize(
    ("words", "variables", "program"),
    [
        (["tpu_vm.sh", "status"], POD, "gcloud"),
        (["tpu_vm.sh", "babysit"], POD, "gcloud"),
        (["gke.sh", "apply"], SLICE, "kubectl"),
        (["gke.sh", "delete"], SLICE, "kubectl"),
        (["hosts.sh", "run"], HOSTS, "ssh"),
        (["hosts.sh", "stop"], HOSTS, "ssh"),
        (["slurm.sh"], NODES, "sbatch"),
        (["worker.sh", "setup", "--data=gs://my-bucket/data"], {}, "gcloud"),
        (["worker.sh", "start", "--", "no-such"], {}, "no-such"),
        (["babysit.sh", "no-such"], {}, "no-such"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_missing_program_is_an_error(project, words, variables, program):
    _leave_common_programs(project)
    script, *others = words
    done = project.run(f"launch/{script}", *others, **variables)
    assert done.returncode == 2, done.stdout
    assert f"program {program} not found; " in done.stdout
    assert not (project.folder / "runs").exists()


def test_without_gcloud_a_save_counts_as_progress_in_a_bucket(project):
    _leave_common_programs(project)
    project.program(
        "ends",
        """#!/usr/bin/env bash
        echo started >>runs.txt
        readarray -t runs <runs.txt
        exit $((${#runs[@]} < 4 ? 75 : 3))
        """,
    )
    options = ["--workdir=gs://my-bucket/run", "--backoff=0"]
    options += ["--max-restarts=1", "ends"]
    done = project.run("launch/babysit.sh", *options)
    assert done.returncode == 3
    assert "cannot be listed: gcloud is not installed." in done.stdout
    assert (project.folder / "runs.txt").read_text().count("started") == 4


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["tpu_vm.sh", "setup"], POD),
        (["tpu_vm.sh", "babysit"], POD),
        (["gke.sh", "apply"], SLICE),
        (["slurm.sh"], NODES),
        (["worker.sh", "start", "--", "true"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_folder_that_cannot_be_created_is_an_error(project, words, variables):
    (project.folder / "runs").write_text("")
    script, *others = words
    done = project.run(f"launch/{script}", *others, **variables)
    assert done.returncode == 2, done.stdout
    assert "error: the folder runs/launch" in done.stdout
    assert "was run" not in done.stdout


FULL = pathlib.Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["log", "process.draft", "attendant.draft"])
def test_a_worker_does_not_start_on_a_full_disk(project, file):
    folder = project.folder / "runs/launch/run"
    folder.mkdir(parents=True)
    (folder / file).symlink_to(FULL)
    loop = "for _ in {1..6000}; do sleep 0.01; done"
    done = project.run("launch/worker.sh", "start", "--", "bash", "-c", loop)
    assert done.returncode == 2, done.stdout
    assert "cannot write to " in done.stdout


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_an_incomplete_manifest_is_not_sent(project):
    folder = project.folder / "runs/launch"
    folder.mkdir(parents=True)
    (folder / "stage2.yaml").symlink_to(FULL)
    done = project.run("launch/gke.sh", "apply", **SLICE)
    assert done.returncode == 2
    assert "runs/launch/stage2.yaml cannot be written" in done.stdout
    assert "kubectl was run" not in done.stdout


_SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do if [[ $1 == -o ]]; then shift; fi; shift; done
if [[ $2 == *"worker.sh status"* ]]; then touch "$LOOKS"; sleep 0.2; fi
exec bash -c "$2"
"""
_SAVES = """
trap 'touch "saved$$"; exit 75' TERM
touch started
for _ in {1..6000}; do sleep 0.01; done
"""


def test_ctrl_c_during_a_status_check_lets_all_hosts_save(project):
    """Ctrl-C signals the whole process group, including the status check."""
    project.program("ssh", _SSH)
    project.training(_SAVES)
    looks = project.folder / "looks.txt"
    variables = HOSTS | {"WORKDIR": "w", "LOOKS": str(looks)}
    command = ["launch/hosts.sh", "run", "--poll=0"]
    with project.start(*command, **variables) as process:
        project.wait_for(project.folder / "started")
        looks.unlink()
        project.wait_for(looks)
        os.killpg(process.pid, signal.SIGINT)
        output = project.output(process)
    assert process.returncode == 75, output
    assert len(list(project.folder.glob("saved*"))) == 2


@pytest.mark.parametrize("moment", ["describe", "create", "tpu-vm ssh"])
def test_ctrl_c_leaves_a_pod_unchanged(project, moment):
    project.program(
        "gcloud",
        f"""#!/usr/bin/env bash
        if [[ $* == *"{moment}"* ]]; then
          touch reached.txt
          for _ in {{1..200}}; do sleep 0.02; done
        fi
        case "$*" in
          *"queued-resources describe"*)
            if [[ "{moment}" == create ]]; then echo NOT_FOUND >&2; exit 1; fi
            echo ACTIVE
            ;;
          *"tpu-vm ssh"*"worker.sh status"*) echo "worker a:b running" ;;
          *"tpu-vm describe"*) echo 1 ;;
        esac
        """,
    )
    command = ["launch/tpu_vm.sh", "babysit", "--poll=0", "--backoff=0"]
    with project.start(*command, **POD) as process:
        project.wait_for(project.folder / "reached.txt")
        os.killpg(process.pid, signal.SIGINT)
        output = project.output(process)
    assert process.returncode == 75, output
    assert "The run continues without a babysitter" in output


def test_the_exit_code_is_not_the_number_of_failed_hosts(project):
    """Two failed hosts must not give exit code 2, which means wrong input."""
    done = project.run("launch/hosts.sh", "status", **HOSTS)
    assert done.returncode == 1, done.stdout


def test_a_run_that_a_host_rejects_is_not_restarted(project):
    project.program("ssh", _SSH)
    (project.folder / ".venv/bin/python").unlink()
    variables = HOSTS | {"WORKDIR": "w", "LOOKS": "looks.txt"}
    done = project.run(
        *("launch/babysit.sh", "--backoff=0", "launch/hosts.sh", "run"),
        **variables,
    )
    assert done.returncode == 2, done.stdout
    assert "program .venv/bin/python not found; " in done.stdout
    assert "Restart" not in done.stdout
