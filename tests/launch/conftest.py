"""A project folder with the launch scripts, and stand-ins for programs."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# A stand-in for Python: it creates "environments" that are copies of itself,
# installs nothing, and runs $TRAINING instead of the training.
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


class _Process(subprocess.Popen):
    """A process that is killed, not waited for, if a test fails."""

    def __exit__(self, kind, *rest):
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


@dataclasses.dataclass
class Project:
    """A copy of the files that the launch scripts need, and an environment."""

    folder: pathlib.Path
    programs: pathlib.Path
    environment: dict[str, str]
    sessions: list[int] = dataclasses.field(default_factory=list)

    def program(self, name: str, text: str) -> pathlib.Path:
        """Puts a program first on the PATH."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def training(self, text: str) -> None:
        """Sets the bash script that runs in place of the training."""
        path = self.folder.parent / "training.sh"
        path.write_text(text)
        self.environment["TRAINING"] = str(path)

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        """Starts a command in its own session, with no signal ignored.

        `nohup` starts these tests with SIGHUP ignored. Child processes inherit
        an ignored signal, but not a handler, so set a handler during the start.
        Afterwards, the tests ignore the signal again.
        """
        before = signal.signal(signal.SIGHUP, lambda *_: None)
        try:
            process = _Process(
                command,
                cwd=self.folder,
                start_new_session=True,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        finally:
            signal.signal(signal.SIGHUP, before)
        self.sessions.append(process.pid)
        return process

    def remaining(self) -> list[int]:
        """Returns the started processes that are still running."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=", "-o", "stat="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        remaining = []
        for line in listed.splitlines():
            pid, state = line.split()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(pid)) in self.sessions and state[0] != "Z":
                    remaining.append(int(pid))
        return remaining

    def end(self, grace: float = 10.0) -> list[int]:
        """Kills and returns the processes still running after `grace` s."""
        deadline = time.monotonic() + grace
        while (left := self.remaining()) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = left
        while left:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            left = self.remaining()
        return killed

    def run(
        self, *command: str, **environment: str
    ) -> subprocess.CompletedProcess:
        with self.start(*command, **environment) as process:
            output = self.output(process)
        return subprocess.CompletedProcess(command, process.returncode, output)

    @staticmethod
    def output(process: subprocess.Popen) -> str:
        """Waits for the process to end, up to a limit; returns its output."""
        return process.communicate(timeout=60)[0]

    @staticmethod
    def wait_for(path: pathlib.Path) -> None:
        """Waits until a file exists."""
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.01)


@pytest.fixture
def project(tmp_path):
    """A project; the test must end all processes that it starts."""
    folder = tmp_path / "it's a [1] $drive; *" / "project"
    programs = tmp_path / "programs"
    folder.mkdir(parents=True)
    programs.mkdir()
    for name in ("launch", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "mixer_jax").mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    # Drop the caller's variables, so that no test reaches a real cloud.
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/none"}
    made = Project(folder, programs, environment)
    python = made.program("stub-python", _PYTHON)
    environment["PYTHON"] = str(python)
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(python, folder / ".venv/bin/python")
    for version in ("3.11", "3.12", "3.13"):
        made.program(f"python{version}", "#!/bin/sh\nexit 9\n")
    for name in ("gcloud", "kubectl", "ssh", "sbatch", "srun", "scontrol"):
        made.program(name, f"#!/bin/sh\necho {name} was run >&2\nexit 9\n")
    yield made
    left = made.end()
    assert not left, f"These processes outlived their test: {left}"
