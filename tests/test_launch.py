"""The launch scripts, without their installation steps."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ["launch/quickstart.sh", "launch/test.sh"]


def _run(*command, **environment):
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_prints_commands_without_running_them(script):
    done = _run(script, "--dry-run", PATH=f"{os.environ['PATH']}:/nowhere")
    assert done.returncode == 0, done.stderr
    commands = [x for x in done.stdout.splitlines() if x.startswith("+ ")]
    assert any("-m pytest" in x or "mixer_jax.main" in x for x in commands)
    if "quickstart" in script:
        modules = [x.split(" -m ")[1].split()[0] for x in commands[-6:]]
        assert modules == [
            "mixer_jax.demo.emoji",
            "mixer_jax.demo.simulate",
            "mixer_jax.categorize",
            "mixer_jax.main",
            "mixer_jax.evaluate",
            "mixer_jax.report",
        ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_option_is_an_error(script):
    done = _run(script, "--fast")
    assert done.returncode == 2
    more = "--smoke, " if "quickstart" in script else ""
    known = f"known: {more}--dry-run, --help."
    assert f"unknown option --fast; {known}" in done.stderr


def test_missing_python_is_an_error(tmp_path):
    for name in ("dirname", "readlink", "cat", "sed", "bash"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = _run(
        "/bin/bash",
        "launch/quickstart.sh",
        "--dry-run",
        PATH=str(tmp_path),
        PYTHON="",
    )
    assert done.returncode == 2
    assert "Python 3.11 or newer is required" in done.stderr


def test_scripts_have_valid_syntax():
    for script in sorted((ROOT / "launch").glob("*.sh")):
        assert _run("bash", "-n", str(script)).returncode == 0
