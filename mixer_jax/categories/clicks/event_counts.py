"""Counts the events of one query-item pair, in parts that can be merged.

The counts do not depend on how events are divided into parts or on the order of
merging.
"""

# Exposures, clicks, later exposures, later clicks, copies (duplicate events).
Counts = tuple[int, int, int, int, int]
# Session, time in microseconds since 1970, clicked.
Seen = tuple[str, int, int]
# (session, time) -> clicked, for events with a session; and `Counts` of events
# without a session and of duplicates.
Part = tuple[dict[tuple[str, int], int], list[int]]


class Counter:
    """Counts events; duplicates within a session count once.

    An exposure and its click may be two events with the same time: they count
    as one clicked event. Events without a session never count as duplicates.
    """

    def __init__(self, until: int | None):
        """Sets `until`, the start of later events (microseconds since 1970)."""
        self.until = until

    def create_accumulator(self) -> Part:
        """Returns an empty part."""
        return {}, [0] * 5

    def add_input(self, part: Part, event: Seen) -> Part:
        """Returns the part with one more event."""
        session, time, clicked = event
        seen, counts = part
        if session:
            _see(seen, counts, (session, time), clicked)
        else:
            self._count(counts, time, clicked)
        return part

    def merge_accumulators(self, parts) -> Part:
        """Returns all parts merged into one."""
        seen, counts = self.create_accumulator()
        for other, numbers in parts:
            counts = [a + b for a, b in zip(counts, numbers, strict=True)]
            for key, clicked in other.items():
                _see(seen, counts, key, clicked)
        return seen, counts

    def extract_output(self, part: Part) -> Counts:
        """Returns the counts of a part."""
        seen, counts = part[0], list(part[1])
        for (_, time), clicked in seen.items():
            self._count(counts, time, clicked)
        return tuple(counts)

    def _count(self, counts: list[int], time: int, clicked: int) -> None:
        place = 2 if self.until is not None and time >= self.until else 0
        counts[place] += 1
        counts[place + 1] += clicked


def _see(
    seen: dict[tuple[str, int], int],
    counts: list[int],
    key: tuple[str, int],
    clicked: int,
) -> None:
    if key in seen:
        counts[4] += 1
        clicked = max(clicked, seen[key])
    seen[key] = clicked
