"""The logs of a run: a progress line, `metrics.jsonl` and TensorBoard."""

import json
import math
import os
import pathlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime import files, paths, results, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.watch.appended import Appended, Events

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


def keep_until(path: pathlib.Path, step: int) -> None:
    """Removes the lines after `step`, which the run is about to write again.

    Damaged lines, and a line left unfinished by a killed run, are also removed.
    """
    if not path.exists():
        return
    kept = [
        line + "\n"
        for line, figures in read_lines(path)
        if figures["step"] <= step
    ]
    files.write_text(path, "".join(kept))


def read_lines(path: paths.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the lines of a `metrics.jsonl` and their figures.

    Lines that are incomplete or damaged are skipped.
    """
    text = path.read_bytes().decode(errors="replace")
    for line in text.split("\n"):
        try:
            figures = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(figures, dict) and isinstance(figures.get("step"), int):
            yield line, figures


def memory_used(mesh: Mesh) -> dict[str, float]:
    """Returns the highest memory use of this process's devices, if known.

    Returns:
      `memory_gb` and `memory_peak_gb`, in units of 10^9 bytes; {} for devices
      without memory statistics, such as CPUs.
    """
    known = [device.memory_stats() for device in mesh.local_devices]
    known = [stats for stats in known if stats]
    if not known:
        return {}
    names = {"memory_gb": "bytes_in_use", "memory_peak_gb": "peak_bytes_in_use"}
    return {
        name: max(stats.get(key, 0) for stats in known) / 1e9
        for name, key in names.items()
    }


class Logs:
    """Writes one stage's figures; a context manager.

    On a terminal it shows a progress bar; elsewhere `write` prints a line. Only
    process 0 prints and writes.

    An error while writing figures does not interrupt the stage, whose processes
    have to stop and save together. Later figures are kept in memory; on exit,
    the context writes them, to another file if necessary, and raises the error.

    Attributes:
      failure: the error while writing figures; None if there was none.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        stage: str,
        first_step: int,
        steps: int,
        batch_size: int,
        console: terminal.Console | None = None,
    ):
        self._console = console or terminal.Console()
        self._stage = stage
        self._steps = steps
        self._batch_size = batch_size
        self._step = first_step
        self._marked: tuple[int, float] | None = None
        self._began: float | None = None
        self._graph_seconds: float | None = None  # None without a graph
        self._sums: dict[str, list[float]] = {}
        self._quiet = jax.process_index() != 0
        self.failure: UserError | OSError | None = None
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._file = self._board = self._bar = None
        if self._quiet:
            return
        workdir = pathlib.Path(workdir)
        keep_until(workdir / METRICS, first_step)
        self._file = Appended(workdir / METRICS)
        self._board = Events(workdir / TENSORBOARD, purge_step=first_step + 1)
        if self._console.is_terminal:
            self._bar = terminal.count_bar(self._console)
            self._task = self._bar.add_task(
                stage, total=steps, completed=first_step, message=""
            )

    def __enter__(self) -> "Logs":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._flush()
            self._file.close()
            self._board.close()
        if kind is None and self.failure is not None:
            raise self.failure

    def step(self, step: int, metrics: dict[str, Any]) -> None:
        """Records the metrics of a finished step: scalars on the host."""
        self._step = step
        if self._marked is None:  # The first step is mostly compilation.
            self._began = time.monotonic()
            self._marked = (step, self._began)
        for name, value in metrics.items():
            self._sums.setdefault(name, []).append(float(value))
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def graph(self, step: int, seconds: float) -> None:
        """Records the time spent rebuilding the class graph before a step."""
        self.figures(step, {"graph_seconds": seconds})
        if self._began is None:
            seconds = 0.0  # mostly compilation, like the first step
        self._graph_seconds = (self._graph_seconds or 0.0) + seconds

    def write(self, **more: float) -> None:
        """Writes the mean metrics since the last call, the rate, and `more`.

        After a rebuild of the class graph, this includes `graph_share`: the
        share of time spent in rebuilds since this process's first step.
        """
        step, now = self._step, time.monotonic()
        done, since = self._marked
        self._marked = (step, now)
        rate = (step - done) * self._batch_size / max(now - since, 1e-9)
        rate = rate or math.nan
        figures = {k: float(np.mean(v)) for k, v in self._sums.items()}
        self._sums = {}
        if self._quiet:
            return
        figures |= {"samples_per_second": rate}
        if self._graph_seconds is not None:
            spent = max(now - self._began, 1e-9)
            figures["graph_share"] = self._graph_seconds / spent
        self.figures(step, figures | more)
        message = _describe(figures)
        if self._bar is not None:
            self._bar.update(self._task, message=message)
            return
        if math.isfinite(rate):
            left = round((self._steps - step) * self._batch_size / rate)
            message += f"  {left // 60}:{left % 60:02d} left"
        self.say(f"{self._stage}: step {step}/{self._steps}  {message}")

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """Writes figures to TensorBoard and JSONL (null if not finite)."""
        if self._quiet:
            return
        self._pending.append((step, figures))
        if self.failure is None:
            self._write()

    def _write(self) -> None:
        """Writes the pending figures; after an error, the rest stay pending."""
        try:
            while self._pending:
                step, figures = self._pending[0]
                self._file.write(self._line(step, figures))
                self._pending.pop(0)
                for name, value in figures.items():
                    if math.isfinite(value):
                        self._board.add(name, value, step)
        except (UserError, OSError) as error:
            self.failure = self.failure or error

    def _line(self, step: int, figures: dict[str, float]) -> bytes:
        known = {
            name: value if math.isfinite(value) else None
            for name, value in figures.items()
        }
        line = {"step": step, "stage": self._stage, **known}
        return json.dumps(line).encode() + b"\n"

    def _flush(self) -> None:
        """Writes the pending figures, to another file if necessary."""
        self._write()
        if not self._pending:
            return
        rest = b"".join(self._line(*pending) for pending in self._pending)
        kept = results.rescue(METRICS, lambda draft: draft.write_bytes(rest))
        if kept is not None:
            self.say(
                f"{self._stage}: the last {len(self._pending)} lines of the "
                f"log were saved as {kept}; append them to {METRICS}.",
                "yellow",
            )

    def say(self, text: str, style: str = "") -> None:
        """Prints one line, above the progress bar if there is one."""
        if not self._quiet:
            self._console.print(
                text, style=style, highlight=False, markup=False, soft_wrap=True
            )


def _describe(figures: dict[str, float]) -> str:
    """Returns the loss and the rate as text, omitting unknown values."""
    parts = []
    if "loss" in figures:  # A diverged loss is shown as nan.
        parts.append(f"loss {figures['loss']:.3f}")
    rate = figures["samples_per_second"]
    if math.isfinite(rate):
        parts.append(f"{rate:,.0f} samples/s")
    return "  ".join(parts)
