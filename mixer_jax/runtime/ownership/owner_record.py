"""The record of a folder's owner, and whether its process is alive."""

import contextlib
import datetime
import functools
import json
import os
import pathlib
import secrets
import socket
from typing import NamedTuple

_EXITING = 0x4  # PF_EXITING in the flags of /proc/PID/stat
_SIGKILL = 1 << 8  # in the signal masks of /proc/PID/status


class Record(NamedTuple):
    """The owner of a folder.

    Attributes:
      host: the host name.
      boot: identifies the machine's last boot and the namespace of process IDs,
        such as a container's; "" if unknown.
      process: the process ID.
      ticks: the start time of the process in clock ticks; "" if unknown. It
        distinguishes the process from a later one with the same ID.
      start: the date and time when the process took the folder.
      token: a random string, unique per owner.
    """

    host: str
    boot: str
    process: int
    ticks: str
    start: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.start}"

    def is_of_this_machine(self) -> bool:
        """Returns whether the process runs, or ran, on this machine."""
        host, boot = _machine()
        boots = self.boot.split()[:1], boot.split()[:1]
        return bool(self.boot) and self.host == host and boots[0] == boots[1]

    def is_seen(self) -> bool:
        """Returns whether the process is in this machine's PID namespace."""
        return bool(self.boot) and (self.host, self.boot) == _machine()

    def is_alive(self) -> bool:
        """Returns whether the process is alive; requires `is_seen`."""
        if _is_hidden(self.process):
            return True
        return _ticks(self.process) == self.ticks and not _is_dying(
            self.process
        )


def make() -> Record:
    """Returns a record of this process, with a new token."""
    now = datetime.datetime.now().astimezone()
    process = os.getpid()
    return Record(
        *_machine(),
        process,
        _ticks(process),
        f"{now:%Y-%m-%d %H:%M:%S %Z}",
        secrets.token_hex(8),
    )


def to_json(record: Record) -> str:
    """Returns a record as JSON."""
    return json.dumps(record._asdict(), indent=0) + "\n"


def parse(text: str) -> Record | None:
    """Returns the record in a JSON string; None if it is invalid."""
    try:
        record = Record(**json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return None
    kinds = Record.__annotations__.values()
    return record if all(map(isinstance, record, kinds)) else None


@functools.cache
def _machine() -> tuple[str, str]:
    """Returns this host's name, and an ID of its boot and namespace."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    with contextlib.suppress(OSError):
        boot = f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname(), boot.strip()


def _stat(process: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from `state` on; [] if missing."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _is_hidden(process: int) -> bool:
    """Returns whether /proc hides an existing process of another user."""
    if _stat(process):
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _ticks(process: int) -> str:
    """Returns a process's start time in clock ticks; "" if unknown."""
    return "".join(_stat(process)[19:20])


def _is_dying(process: int) -> bool:
    """Returns whether a process has ended, is ending, or was killed."""
    stat = _stat(process)
    if not stat or stat[0] in "ZX" or int(stat[6]) & _EXITING:
        return True
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    pending = (
        int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigPnd", "ShdPnd"))
    )
    return any(mask & _SIGKILL for mask in pending)
