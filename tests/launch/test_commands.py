"""Tests that the scripts run commands other than training on all hosts."""

import shlex

import pytest
import yaml

OPTIONS = ["--log=my log", "--out=/nfs/shop"]
PROGRAM = [".venv/bin/python", "-m", "mixer_jax.categorize", *OPTIONS]
POD = {"PROJECT": "p", "ZONE": "z", "NAME": "shop"}
SCRIPTS = {
    "hosts.sh": (["run"], {"HOSTS": "a b"}),
    "slurm.sh": ([], {"NODES": "2", "GPUS": "0"}),
    "tpu_vm.sh": (["run"], POD),
    "gke.sh": (
        ["render"],
        {
            "NAME": "shop",
            "ACCELERATOR": "tpu-v5-lite-podslice",
            "TOPOLOGY": "4x4",
            "IMAGE": "i",
            "DATA": "gs://my-bucket/data",
        },
    ),
}


@pytest.fixture
def dry_run(project):
    """Returns the output of a script's dry run."""

    def run(script, command="categorize"):
        words, variables = SCRIPTS[script]
        given = [f"launch/{script}", *words, "--dry-run", "--", *OPTIONS]
        return project.run(*given, COMMAND=command, **variables)

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_commands_need_no_config(dry_run, script):
    done = dry_run(script)
    assert done.returncode == 0, done.stdout
    if script == "gke.sh":
        (job,) = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"]
        pod = job["template"]["spec"]["template"]["spec"]
        assert pod["containers"][0]["command"] == PROGRAM
    elif script == "slurm.sh":
        assert done.stdout.strip().endswith(shlex.join(["--", *OPTIONS]))
    else:
        (line, *_) = done.stdout.strip().splitlines()
        inner = shlex.split(line)[-1].removeprefix("--command=")
        words = shlex.split(inner)
        flags = [f"--{n}" for n in ("coordinator", "processes", "process")]
        words = [x for x in words if x.partition("=")[0] not in flags]
        assert words[words.index("--", 4) + 1 :] == PROGRAM


def test_the_job_of_slurm_runs_the_command(project, tmp_path):
    _, variables = SCRIPTS["slurm.sh"]
    copy = tmp_path / "slurm_script"
    copy.write_bytes((project.folder / "launch/slurm.sh").read_bytes())
    given = ["bash", str(copy), "--dry-run", "--", *OPTIONS]
    done = project.run(*given, COMMAND="categorize", **variables)
    assert done.returncode == 0, done.stdout
    line = done.stdout.strip()
    assert line.endswith(shlex.join(PROGRAM))
    assert "--workdir" not in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_commands_are_rejected(dry_run, script):
    done = dry_run(script, "serve")
    assert done.returncode == 2, done.stdout
    assert "COMMAND=serve: several hosts cannot run it" in done.stdout


def test_the_state_of_another_command_needs_no_workdir(project):
    done = project.run(
        "launch/tpu_vm.sh", "status", "--dry-run", COMMAND="embed", **POD
    )
    assert done.returncode == 0, done.stdout
    done = project.run("launch/tpu_vm.sh", "status", "--dry-run", **POD)
    assert "WORKDIR is not set" in done.stdout
