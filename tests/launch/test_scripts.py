"""Tests common to all launch scripts, and tests of the README's commands."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
SOURCED = {"environment.sh", "manifests.sh", "restarts.sh", "supervise.sh"}
POD = {
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "NAME": "stage2",
    "ACCELERATOR": "v5litepod-256",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
}
SLICE = {
    "NAME": "stage2",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "IMAGE": "my-registry/mixer_jax:1",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
    "DATA": "gs://my-bucket/data",
}
HOSTS = {
    "HOSTS": "a b",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
}
NODES = {
    "NODES": "2",
    "GPUS": "8",
    "CONFIG": "configs/stage2.py",
    "WORKDIR": "gs://my-bucket/runs/stage2",
}
SERVICE = {
    "NAME": "shop",
    "IMAGE": "my-registry/mixer_jax_serve:1",
    "INDEX": "http://shop-milvus:19530",
    "MODELS": "models",
    "MODEL": "stage3",
}
# Script, subcommand, variables, and part of a command printed by its dry run.
DRY_RUNS = [
    ("tpu_vm.sh", "create", POD, "queued-resources create stage2"),
    ("tpu_vm.sh", "setup", POD, "launch/worker.sh setup --extra=tpu"),
    ("tpu_vm.sh", "run", POD, "worker.sh start"),
    ("tpu_vm.sh", "babysit", POD, "queued-resources delete stage2"),
    ("tpu_vm.sh", "status", POD, "worker.sh status"),
    ("tpu_vm.sh", "logs", POD, "--worker=0"),
    ("tpu_vm.sh", "profile", POD, "worker.sh profile"),
    ("tpu_vm.sh", "stop", POD, "worker.sh stop"),
    ("tpu_vm.sh", "delete", POD, "--force"),
    ("gke.sh", "apply", SLICE, "kubectl --namespace=default apply"),
    ("gke.sh", "status", SLICE, "get jobset stage2"),
    ("gke.sh", "logs", SLICE, "job-completion-index=0"),
    ("gke.sh", "delete", SLICE, "delete jobset stage2"),
    ("serve.sh", "milvus", SERVICE, "helm upgrade --install shop-milvus"),
    ("serve.sh", "apply", SERVICE, "kubectl --namespace=default apply"),
    ("serve.sh", "status", SERVICE, "get deployment,horizontalpodautoscaler"),
    ("serve.sh", "logs", SERVICE, "app.kubernetes.io/instance=shop"),
    ("serve.sh", "delete", SERVICE, "poddisruptionbudget,networkpolicy shop"),
    ("hosts.sh", "run", HOSTS, "--processes=2 --process=1"),
    ("hosts.sh", "status", HOSTS, "worker.sh status --name=run.b"),
    ("hosts.sh", "logs", HOSTS, "worker.sh logs --name=run.a"),
    ("hosts.sh", "profile", HOSTS, "worker.sh profile --name=run.a"),
    ("hosts.sh", "stop", HOSTS, "worker.sh stop --name=run.a"),
    ("slurm.sh", "", NODES, "--signal=TERM@300 --requeue"),
    ("babysit.sh", "true", {}, "+ true"),
    ("quickstart.sh", "", {}, "-m mixer_jax.report --workdir=runs/quickstart"),
    ("worker.sh", "setup", {}, "pip install"),
    ("worker.sh", "logs", {}, "+ tail"),
]


def test_shellcheck_finds_nothing():
    places = (sysconfig.get_path("scripts"), os.environ["PATH"])
    shellcheck = shutil.which("shellcheck", path=os.pathsep.join(places))
    assert shellcheck, 'shellcheck comes with pip install -e ".[test]"'
    done = subprocess.run(
        [shellcheck, "--external-sources", *SCRIPTS],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_follow_the_conventions(script):
    text = script.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80
    executable = script.name not in SOURCED
    assert os.access(script, os.X_OK) == executable
    if executable:
        assert text.startswith("#!/usr/bin/env bash\n# ")
        assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize(
    "script", [path.name for path in SCRIPTS if path.name not in SOURCED]
)
def test_help_is_the_head_comment(project, script, tmp_path):
    done = project.run(f"launch/{script}", "--help")
    assert done.returncode == 0
    assert f"launch/{script}" in done.stdout
    assert "#" not in done.stdout
    assert "--dry-run prints" in " ".join(done.stdout.split())
    elsewhere = subprocess.run(
        [f"{project.folder.name}/launch/{script}", "--help"],
        cwd=project.folder.parent,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert elsewhere.stdout == done.stdout


@pytest.mark.parametrize(
    ("script", "subcommand", "variables", "expected"),
    DRY_RUNS,
    ids=[f"{script} {subcommand}" for script, subcommand, *_ in DRY_RUNS],
)
def test_dry_run(project, script, subcommand, variables, expected):
    before = sorted(project.folder.rglob("*"))
    words = [subcommand] if subcommand else []
    if script == "babysit.sh":
        words = ["--dry-run", *words]
    else:
        words += ["--dry-run"]
    done = project.run(f"launch/{script}", *words, **variables)
    assert done.returncode == 0, done.stdout
    commands = [x for x in done.stdout.splitlines() if x.startswith("+ ")]
    assert any(expected in command for command in commands), done.stdout
    assert "was run" not in done.stdout
    assert sorted(project.folder.rglob("*")) == before


def test_the_quickstart_prints_how_to_search(project):
    done = project.run("launch/quickstart.sh", "--dry-run")
    page = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    first = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    assert done.stdout.endswith(f"by picture:\x1b[0m\n{first}")


def test_options_reach_the_pod(project):
    options = ["--spot", "--dry-run", "--", "--config.name=it's (a) test"]
    more = {
        "DATA": "gs://my-bucket/data",
        "CREATE_OPTIONS": "--network=n --subnetwork=s",
        "SSH_OPTIONS": "--internal-ip",
    }
    done = project.run("launch/tpu_vm.sh", "babysit", *options, **POD, **more)
    commands = done.stdout.splitlines()
    (create,) = (x for x in commands if " create " in x)
    assert create.endswith("--spot --network=n --subnetwork=s")
    assert any(
        "setup --extra=tpu --data=gs://my-bucket/data" in x for x in commands
    )
    ssh = [x for x in commands if "tpu-vm ssh" in x or "tpu-vm scp" in x]
    assert all(" --internal-ip " in x for x in ssh)
    # Quoted for both the local and the remote shell, it arrives as one word.
    start = next(x for x in commands if "worker.sh start" in x)
    there = shlex.split(shlex.split(start)[-1])
    assert there[-1] == "--config.name=it's (a) test"


@pytest.mark.parametrize(
    ("script", "subcommand", "variables"),
    [
        ("tpu_vm.sh", "babysit", POD),
        ("gke.sh", "render", SLICE),
        ("serve.sh", "render", SERVICE),
        ("hosts.sh", "run", HOSTS),
        ("slurm.sh", "", NODES),
    ],
)
def test_missing_variables_are_explained(
    project, script, subcommand, variables
):
    words = [subcommand] if subcommand else []
    done = project.run(f"launch/{script}", *words)
    assert done.returncode == 2
    for name in variables:
        assert re.search(
            rf"^  {name} is not set: \w.* as in {name}=\S", done.stdout, re.M
        )
        others = {k: v for k, v in variables.items() if k != name}
        done_one = project.run(f"launch/{script}", *words, **others)
        assert done_one.returncode == 2
        assert done_one.stdout.count("is not set") == 1
        assert f"{name} is not set" in done_one.stdout


def test_a_subcommand_requires_only_the_variables_it_needs(project):
    done = project.run("launch/tpu_vm.sh", "delete")
    assert "PROJECT" in done.stdout
    assert "WORKDIR" not in done.stdout
    done = project.run("launch/gke.sh", "status")
    assert "NAME" in done.stdout
    assert "IMAGE" not in done.stdout
    done = project.run("launch/serve.sh", "render", "--events", **SERVICE)
    assert "EVENTS is not set" in done.stdout


@pytest.mark.parametrize(
    ("script", "variables", "words", "message"),
    [
        ("tpu_vm.sh", POD, ["fly"], "unknown subcommand 'fly'; known: create"),
        ("gke.sh", SLICE, ["fly"], "unknown subcommand 'fly'; known: render"),
        ("hosts.sh", HOSTS, ["fly"], "unknown subcommand 'fly'; known: run"),
        ("worker.sh", {}, ["fly"], "unknown subcommand 'fly'; known: setup"),
        ("tpu_vm.sh", POD, [], "unknown subcommand ''"),
        ("tpu_vm.sh", POD, ["run", "--fast"], "unknown option --fast; known"),
        ("slurm.sh", NODES, ["--fast"], "unknown option --fast; known"),
        ("babysit.sh", {}, ["--fast", "ls"], "unknown option --fast; known"),
        ("babysit.sh", {}, [], "no COMMAND given"),
        ("babysit.sh", {}, ["no-such"], "program no-such not found"),
        ("babysit.sh", {}, ["--backoff=1.5", "ls"], "is not a whole number"),
        ("worker.sh", {}, ["start"], "no COMMAND given"),
        ("tpu_vm.sh", POD | {"WORKDIR": "runs/x"}, ["run"], "share no disk"),
        ("tpu_vm.sh", POD | {"NAME": "Stage_2"}, ["run"], "at most 40 of a-z"),
        (
            "tpu_vm.sh",
            POD | {"CONFIG": "configs/s.py"},
            ["run"],
            "available: configs/daily.py",
        ),
        ("gke.sh", SLICE | {"TOPOLOGY": "256"}, ["render"], "as in 16x16"),
        (
            "gke.sh",
            SLICE | {"TOPOLOGY": "3x3"},
            ["render"],
            "not a multiple of",
        ),
        ("gke.sh", SLICE | {"IMAGE": 'a"b'}, ["render"], "name of an image"),
        (
            "gke.sh",
            SLICE,
            ["apply", "--", "a\nb"],
            "control characters are not allowed",
        ),
        ("gke.sh", SLICE | {"DATA": "data"}, ["render"], "share no disk"),
        ("serve.sh", SERVICE, ["fly"], "unknown subcommand 'fly'; known: mil"),
        (
            "serve.sh",
            SERVICE,
            ["render", "--fast"],
            "option --fast; known: --r",
        ),
        (
            "serve.sh",
            SERVICE | {"INDEX": "runs/index"},
            ["render"],
            "share no disk",
        ),
        (
            "serve.sh",
            SERVICE | {"INDEX": "http://root:Milvus@shop-milvus:19530"},
            ["render"],
            "INDEX must not have a password; put it in the secret shop",
        ),
        (
            "serve.sh",
            SERVICE | {"INDEX": "http://shop-milvus"},
            ["render"],
            "expected http://HOST:PORT,",
        ),
        (
            "serve.sh",
            SERVICE | {"INDEX": "http://shop-milvus:65536"},
            ["render"],
            "the port is at most 65535",
        ),
        ("serve.sh", SERVICE | {"MODEL": "../x"}, ["render"], "in the volume"),
        ("serve.sh", SERVICE | {"MODELS": "a b"}, ["apply"], "use a-z, 0-9"),
        ("serve.sh", SERVICE | {"MEMORY": "6GB"}, ["render"], "such as 6Gi"),
        ("serve.sh", SERVICE, ["render", "--replicas=11"], "--max-replicas=10"),
        ("slurm.sh", NODES | {"GPUS": "two"}, [], "GPUS=two is not a whole"),
    ],
)
def test_wrong_input_is_an_error(project, script, variables, words, message):
    done = project.run(f"launch/{script}", *words, **variables)
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert "was run" not in done.stdout


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "launch").rglob("*"))
        if path.is_file() and path.suffix != ".md"
    ],
    ids=lambda path: path.name,
)
def test_no_script_contains_a_project_zone_or_bucket(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        for bucket in re.findall(r"gs://(\w[\w-]*)", line):
            assert bucket in ("my-bucket", "BUCKET"), line
        assert not re.search(r"--(project|zone)=(?!\$)", line), line
        name = "PROJECT|ZONE|WORKDIR|DATA|IMAGE|HOSTS"
        assert not re.match(rf"\s*(export )?({name})=", line), line
        if not line.lstrip().startswith("need "):  # These give examples.
            assert not re.search(r"[a-z]+-[a-z]+\d-[a-z]\b", line), line


def test_every_command_of_the_readme_works(project):
    """Tries them in the README's order, as blocks build on earlier ones."""
    page = (ROOT / "launch/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line.strip() for line in "".join(blocks).splitlines()]
    lines = [line for line in lines if line]
    assert {line.split()[0] for line in lines} == {
        "export",
        "gcloud",
        "docker",
        "kubectl",
        "python",
        *(f"launch/{name}.sh" for name in ("babysit", "gke", "hosts")),
        *(f"launch/{name}.sh" for name in ("serve", "slurm", "tpu_vm")),
    }
    exports, tried = [], 0
    for line in lines:
        if line.startswith("export "):
            exports.append(line)
        elif line.startswith("launch/"):
            command, *options = line.split(" -- ")
            if "babysit.sh" in command:
                command = command.replace("babysit.sh", "babysit.sh --dry-run")
            else:
                command += " --dry-run"
            script = "\n".join([*exports, " -- ".join([command, *options])])
            done = project.run("bash", "-c", script)
            assert done.returncode == 0, f"{line}\n{done.stdout}"
            assert "+ " in done.stdout or "\nkind: " in done.stdout
            assert "was run" not in done.stdout
            tried += 1
    assert tried > 15


def test_the_readme_mentions_every_script():
    page = (ROOT / "launch/README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        if script.name not in SOURCED:
            assert script.name in page


def test_tests_start_no_process_that_ignores_signals(project):
    """This holds however the tests are started, for example by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = project.run("bash", "-c", "trap -p")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    # The TPU compiler, if a test has loaded it, ignores SIGPROF.
    ignored = set(done.stdout.splitlines()) - {"trap -- '' SIGPROF"}
    assert not ignored


def test_no_process_outlives_a_test(project):
    loop = "for _ in {1..6000}; do sleep 0.01; done"
    script = f"{loop} & set -m; {loop} & echo begun; exec sleep 60"
    with project.start("bash", "-c", script) as process:
        assert process.stdout.readline() == "begun\n"
        assert len(project.end(grace=0)) >= 3
    assert not project.remaining()
