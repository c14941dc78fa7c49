import pandas as pd

from mixer_jax.data.tables import category_notes, table


def frame(*rows):
    return pd.DataFrame(rows, columns=["category_id", "role"])


def notes(made):
    return category_notes.notes(made, table.category_index(made))


def test_unsuspicious_categories_yield_no_notes():
    both = [(name, role) for name in "ab" for role in ("query", "document")]
    assert notes(frame(*both)) == ()


def test_suspicious_categories_yield_notes():
    messages = notes(
        frame(
            ("cat0", "query"),
            ("cat0 ", "document"),
            ("cat1", "query"),
            ("cat1", "document"),
        )
    )
    assert messages[0].startswith("2 training categories have only queries")
    assert messages[1].startswith(
        "1 category IDs differ from another ID only in"
    )
    assert "('cat0 ' and 'cat0')" in messages[1]
    assert len(messages) == 2


def test_look_alike_ids_are_found_across_batches():
    names = [f"{i}" for i in range(300)] + ["0299", "7.0", "x", "7.00"]
    batches = [
        pd.DataFrame({"category_id": names[i : i + 7]})
        for i in range(0, 304, 7)
    ]
    alike = category_notes.LookAlikes()
    for batch in batches * 2:
        alike.add(batch["category_id"])
        alike._merge()
    assert alike.count() == 3
    assert alike.examples(batches) == (
        ("299", "0299"),
        ("7", "7.0"),
        ("7", "7.00"),
    )
    assert alike.examples(batches, limit=1) == (("299", "0299"),)
    assert category_notes.LookAlikes().count() == 0
