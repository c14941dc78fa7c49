import pandas as pd
import pytest

from mixer_jax.data.tables import rules
from mixer_jax.runtime.errors import UserError

GOOD = ("q", "query", "a.png", "", "c", "", "train")


def frame(*rows):
    return pd.DataFrame(list(rows), columns=rules.COLUMNS, dtype=str)


def test_every_rule_can_be_broken():
    bad = {
        "sample_id": ["", "a\0"],
        "role": ["x"],
        "category_id": [""],
        "image": ["", "/a", "~a", "a/../b", "..", "C:a", "\\a", "..\nx"],
        "text": ["words"],
        "split": ["", "a b", "a/b/c", "train\n"],
    }
    broken = set()
    for column, cells in bad.items():
        for cell in cells:
            row = dict(zip(rules.COLUMNS, GOOD, strict=True)) | {column: cell}
            found = list(rules.faults(frame(tuple(row.values()))))
            assert len(found) == 1, (column, cell)
            assert found[0].rule.column == column
            broken.add(found[0].rule)
    document = ("d", "document", "", "", "c", "", "train")
    broken |= {one.rule for one in rules.faults(frame(document))}
    broken |= {one.rule for one in rules.faults(frame(GOOD, GOOD))}
    long = ("d", "document", "", "x" * rules.LONGEST, "c", "", "train")
    broken |= {one.rule for one in rules.faults(frame(long))}
    assert broken == set(rules.RULES)


def test_fault_has_the_first_row_and_the_number_of_rows():
    bad = ("x", "qeury", "a.png", "", "c", "", "train")
    about_roles = [one for one in rules.RULES if one.column == "role"]
    (fault,) = rules.faults(frame(GOOD, bad, bad), about_roles)
    assert (fault.row, fault.value, fault.count) == (1, "qeury", 2)
    assert fault.describe("here") == (
        "here, column role: the role is 'qeury'; it must be 'query' or "
        "'document' (and 1 more rows)."
    )


def test_duplicate_column_raises_an_error():
    rules.check_columns(rules.COLUMNS[::-1], "t.csv")
    with pytest.raises(UserError, match="Duplicate column 'role'"):
        rules.check_columns([*rules.COLUMNS, "role"], "t.csv")
