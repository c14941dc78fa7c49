"""A copy of the launch scripts to run in, and programs that stand in."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for Python: makes "environments" that are copies of itself, installs
# nothing, and runs $TRAINING for the training.
_PYTHON = """\
#!/usr/bin/env bash
case "$*" in
  -c*) ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) ;;
  "-m mixer_jax.main "*) exec bash "$TRAINING" "$@" ;;
  *) exit 9 ;;
esac
"""


@dataclasses.dataclass
class Project:
    """A copy of what the launch scripts need, and an environment to run in."""

    folder: pathlib.Path
    programs: pathlib.Path
    environment: dict[str, str]

    def program(self, name: str, text: str) -> pathlib.Path:
        """Puts a program first on the PATH."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def training(self, text: str) -> None:
        """Sets what runs, as bash, in place of the training."""
        path = self.folder.parent / "training.sh"
        path.write_text(text)
        self.environment["TRAINING"] = str(path)

    def start(
        self,
        *command: str,
        start_new_session: bool = False,
        **environment: str,
    ) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            start_new_session=start_new_session,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *command: str, **environment: str
    ) -> subprocess.CompletedProcess:
        with self.start(*command, **environment) as process:
            said = self.said(process)
        return subprocess.CompletedProcess(command, process.returncode, said)

    @staticmethod
    def said(process: subprocess.Popen) -> str:
        """Waits for the end, though not for ever, and returns the output."""
        try:
            return process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    @staticmethod
    def wait_for(path: pathlib.Path) -> None:
        """Waits until a file is there."""
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.01)


@pytest.fixture
def project(tmp_path):
    folder, programs = tmp_path / "project", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name in ("launch", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "mixer_jax").mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    # None of the caller's variables, nor, by accident, its cloud.
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/none"}
    made = Project(folder, programs, environment)
    python = made.program("stub-python", _PYTHON)
    environment["PYTHON"] = str(python)
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(python, folder / ".venv/bin/python")
    for name in ("gcloud", "kubectl", "ssh", "sbatch", "srun", "scontrol"):
        made.program(name, f"#!/bin/sh\necho {name} was run >&2\nexit 9\n")
    return made
