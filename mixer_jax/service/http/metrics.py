"""Metrics of the service, in the text format of Prometheus.

References:
  https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import bisect
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8)
_PREFIX = "mixer_"


class Counter:
    """A counter with one value per combination of labels."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()):
        """Stores the name (without prefix), description and label names."""
        self.name, self.text, self._labels = f"{_PREFIX}{name}", text, labels
        self._values: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def add(self, *labels: str, amount: float = 1) -> None:
        """Adds an amount to the value with these labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def lines(self) -> Iterable[str]:
        """Yields the samples."""
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            pairs = dict(zip(self._labels, labels, strict=True))
            yield sample(self.name, pairs, value)


class Gauge:
    """A gauge, read at each scrape."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]):
        """Stores the name (without prefix), description and source."""
        self.name, self.text, self._read = f"{_PREFIX}{name}", text, read

    def lines(self) -> Iterable[str]:
        """Yields the sample."""
        yield sample(self.name, {}, self._read())


class Histogram:
    """A histogram, with one set of counts per label value."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        label: str = "",
        bounds: Sequence[float] = SECONDS,
    ):
        """Stores the name (without prefix), description, label and bounds."""
        self.name, self.text, self._label = f"{_PREFIX}{name}", text, label
        self._bounds = bounds
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, label: str = "") -> None:
        """Counts a value."""
        place = bisect.bisect_left(self._bounds, value)
        with self._lock:
            if label not in self._counts:
                self._counts[label] = [0] * (len(self._bounds) + 1)
                self._sums[label] = 0
            self._counts[label][place] += 1
            self._sums[label] += value

    def lines(self) -> Iterable[str]:
        """Yields the samples."""
        with self._lock:
            found = [
                (label, list(counts), self._sums[label])
                for label, counts in sorted(self._counts.items())
            ]
        for label, counts, total in found:
            pairs = {self._label: label} if self._label else {}
            count = 0
            for bound, more in zip(
                [*self._bounds, "+Inf"], counts, strict=True
            ):
                count += more
                labels = pairs | {"le": f"{bound}"}
                yield sample(f"{self.name}_bucket", labels, count)
            yield sample(f"{self.name}_sum", pairs, total)
            yield sample(f"{self.name}_count", pairs, count)


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """Returns one line of the text format."""
    pairs = ",".join(f'{key}="{_escaped(v)}"' for key, v in labels.items())
    shown = f"{value:.15g}"
    return f"{name}{{{pairs}}} {shown}" if pairs else f"{name} {shown}"


def _escaped(value: str) -> str:
    value = value.replace("\\", r"\\").replace("\n", r"\n")
    return value.replace('"', r"\"")


class Metrics:
    """All metrics of one application."""

    def __init__(self) -> None:
        """Starts at zero."""
        self.requests = Counter(
            "requests_total",
            "Answered requests.",
            ("route", "method", "status"),
        )
        self.seconds = Histogram(
            "request_seconds", "Time to answer a request.", "route"
        )
        self.stages = Histogram(
            "stage_seconds",
            "Time per stage of a search: decode, queue, encode, search.",
            "stage",
        )
        self.batches = Histogram(
            "batch_size", "Queries per batch.", bounds=SIZES
        )
        self.refused = Counter(
            "refused_total", "Queries refused because too many were waiting."
        )
        self.lost_events = Counter(
            "lost_events_total", "Events that could not be written."
        )
        self._all: list[Counter | Gauge | Histogram] = [
            self.requests,
            self.seconds,
            self.stages,
            self.batches,
            self.refused,
            self.lost_events,
        ]

    def observe(self, stage: str, value: float) -> None:
        """Records the seconds of a stage, or the size of a batch."""
        if stage == "batch":
            self.batches.observe(value)
        else:
            self.stages.observe(value, stage)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records the duration of a block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - begin)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge whose value `read` returns."""
        self._all.append(Gauge(name, text, read))

    def text(self) -> str:
        """Returns all metrics in the text format."""
        lines = []
        for metric in self._all:
            lines.append(f"# HELP {metric.name} {metric.text}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += metric.lines()
        return "\n".join(lines) + "\n"
