"""What the owner of a folder says of itself, and whether it is alive."""

import datetime
import functools
import json
import os
import pathlib
import secrets
import socket
from typing import NamedTuple

_EXITING = 0x4  # PF_EXITING, of the flags in /proc/PID/stat
_SIGKILL = 1 << 8  # of the masks in /proc/PID/status


class Record(NamedTuple):
    """What an owner says of itself.

    Attributes:
      host: its name.
      boot: identifies the machine's last boot; "" where that is unknown.
      process: its process ID.
      ticks: when that process started, in the kernel's count; "" where that
        is unknown. A process ID alone may be another process's by now.
      start: when it took the folder, in words.
      token: unique.
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
        """Returns whether its process is, or was, one of this machine's."""
        return bool(self.boot) and (self.host, self.boot) == _machine()

    def is_alive(self) -> bool:
        """Returns whether its process lives; only for this machine's."""
        return _ticks(self.process) == self.ticks and not _is_dying(
            self.process
        )


def make() -> Record:
    """Returns this process's record, with a token of its own."""
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
    """Returns the text of a record's file."""
    return json.dumps(record._asdict(), indent=0) + "\n"


def parse(text: str) -> Record | None:
    """Returns the record of a text; None if it is damaged."""
    try:
        record = Record(**json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return None
    kinds = Record.__annotations__.values()
    return record if all(map(isinstance, record, kinds)) else None


@functools.cache
def _machine() -> tuple[str, str]:
    """Returns this host's name, and what identifies its last boot."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    return socket.gethostname(), boot.strip()


def _stat(process: int) -> list[str]:
    """Returns /proc/PID/stat from the state on; [] without such a process."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _ticks(process: int) -> str:
    """Returns when a process started; "" if there is none."""
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
