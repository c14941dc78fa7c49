"""Tests of the Slurm script, on the login node and as Slurm's copy."""

import shutil

import pytest

NODES = {
    "NODES": "2",
    "GPUS": "4",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "work",
}


@pytest.fixture
def job(project, tmp_path):
    """Runs the script as Slurm does: as a copy, in the project's folder."""
    spool = tmp_path / "spool"
    spool.mkdir()
    script = spool / "slurm_script"
    shutil.copy(project.folder / "launch/slurm.sh", script)
    for name in ("srun", "scontrol"):
        project.program(
            name,
            f"""#!/usr/bin/env bash
            echo "{name} $*" >>slurm.txt
            if [[ {name} == srun ]]; then
              n=$(grep -c srun slurm.txt)
              set -- $CODES
              exit "${{!n:-0}}"
            fi
            """,
        )

    def run(codes, *options, **variables):
        done = project.run(
            str(script),
            "--backoff=0",
            *options,
            SLURM_JOB_ID="7",
            CODES=codes,
            **NODES | variables,
        )
        asked = (project.folder / "slurm.txt").read_text().splitlines()
        return done, [line.split()[0] for line in asked], asked

    return run


def test_submits_itself_to_sbatch(project):
    project.program("sbatch", '#!/bin/sh\nprintf "%s\\n" "$@" >sbatch.txt\n')
    options = ["--max-restarts=3", "--", "--config.x=a b"]
    more = {"TIME": "24:00:00", "SBATCH_OPTIONS": "--partition=gpu --mem=0"}
    done = project.run("launch/slurm.sh", *options, **NODES, **more)
    assert done.returncode == 0, done.stdout
    given = (project.folder / "sbatch.txt").read_text().splitlines()
    script = given.index("launch/slurm.sh")
    assert given[script + 1 :] == options
    assert {
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--time=24:00:00",
        "--signal=TERM@300",
        "--requeue",
        "--open-mode=append",
        f"--chdir={project.folder}",
        "--partition=gpu",
        "--mem=0",
    } <= set(given[:script])
    assert (project.folder / "runs/launch").is_dir()  # for the log


def test_nodes_without_gpus_have_one_task_each(project):
    done = project.run(
        "launch/slurm.sh",
        "--dry-run",
        **NODES | {"GPUS": "0"},
    )
    assert "--ntasks-per-node=1 " in done.stdout
    assert "gpus-per-node" not in done.stdout
    assert " --dry-run" not in done.stdout


def test_the_job_trains_and_ends(job):
    done, names, asked = job("0", "--", "--config.x=3")
    assert done.returncode == 0, done.stdout
    assert names == ["srun"]
    assert asked[0] == (
        "srun --kill-on-bad-exit=0 --wait=300 .venv/bin/python -m "
        "mixer_jax.main --config=configs/stage2.py --workdir=work --config.x=3"
    )


def test_a_preempted_run_is_requeued(job):
    done, names, asked = job("75")
    assert done.returncode == 75
    assert names == ["srun", "scontrol"]
    assert asked[-1] == "scontrol requeue 7"


@pytest.mark.parametrize(
    ("codes", "code", "names"),
    [
        ("2", 2, ["srun"]),
        ("1 70 0", 0, ["srun"] * 3),
        ("1 75", 75, ["srun", "srun", "scontrol"]),
        ("1 1 1 1", 1, ["srun"] * 3),
    ],
)
def test_failures_are_restarted_in_place(job, codes, code, names):
    done, asked, _ = job(codes, "--max-restarts=2")
    assert done.returncode == code
    assert asked == names


def test_a_failure_at_the_time_limit_is_requeued(job):
    """Otherwise, Slurm would end the restarted run and not requeue it."""
    done, names, _ = job("1", SLURM_JOB_END_TIME="1000")
    assert done.returncode == 1
    assert names == ["srun", "scontrol"]
