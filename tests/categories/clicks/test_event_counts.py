import itertools

from mixer_jax.categories.clicks.event_counts import Counter


def count(counter, events):
    part = counter.create_accumulator()
    for event in events:
        part = counter.add_input(part, event)
    return counter.extract_output(part)


def test_parts_merge_in_any_order():
    counter = Counter(until=5)
    events = [("s", 4, 0), ("s", 4, 1), ("", 4, 1), ("t", 5, 1), ("s", 4, 0)]
    wanted = (2, 2, 1, 1, 2)
    for order in itertools.permutations(events):
        parts = []
        for event in order:
            part = counter.create_accumulator()
            parts.append(counter.add_input(part, event))
        whole = counter.merge_accumulators(parts)
        assert counter.extract_output(whole) == wanted
        assert count(counter, order) == wanted
    # Extracting the output leaves the part unchanged.
    assert counter.extract_output(whole) == wanted


def test_events_without_a_session_never_count_as_duplicates():
    counter = Counter(until=None)
    assert count(counter, [("", 4, 1)] * 3) == (3, 3, 0, 0, 0)
    assert count(counter, [("s", 4, 1)] * 3) == (1, 1, 0, 0, 2)
    two = [("s", 4, 1), ("t", 4, 1), ("s", 5, 0)]
    assert count(counter, two) == (3, 2, 0, 0, 0)
