"""Counts the events of one pair of a query and an item, in parts.

Parts may be made anywhere and put together in any order: the counts are the
same.
"""

# Exposures, clicks, later exposures, later clicks, copies.
Counts = tuple[int, int, int, int, int]
# Session, time in microseconds since 1970, clicked.
Seen = tuple[str, int, int]
# Clicked by session and time, of events with a session; and `Counts`, of the
# others and of copies.
Part = tuple[dict[tuple[str, int], int], list[int]]


class Counter:
    """Counts events; one that stands twice in a session counts once.

    An exposure and its click may be two events of one time: that is one event
    that was clicked. Of events without a session none is known to be a copy.
    """

    def __init__(self, until: int | None):
        """Counts events from `until` on, microseconds since 1970, as later."""
        self.until = until

    def create_accumulator(self) -> Part:
        """Returns the part of nothing."""
        return {}, [0] * 5

    def add_input(self, part: Part, event: Seen) -> Part:
        """Returns the part with one event more."""
        session, time, clicked = event
        seen, counts = part
        if session:
            _see(seen, counts, (session, time), clicked)
        else:
            self._count(counts, time, clicked)
        return part

    def merge_accumulators(self, parts) -> Part:
        """Returns the part of all parts."""
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
