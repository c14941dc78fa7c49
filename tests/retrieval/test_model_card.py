"""The text of a model card."""

from mixer_jax.retrieval import model_card
from mixer_jax.training.config import defaults

ROW = dict(
    stage="stage1",
    split="test",
    gallery="test",
    queries=8,
    documents=9,
    identical_at_1=0.4567,
    map=None,
)


def render(categories=1234, measures=()):
    meta = {"fingerprint": "abc", "step": 2000, "categories": categories}
    return model_card.render(meta, defaults.defaults(), measures)


def test_metrics_are_shown_as_a_table_of_percentages():
    lines = render(measures=[ROW]).splitlines()
    (row,) = [line for line in lines if line.startswith("| stage1 |")]
    assert row.startswith("| stage1 | test | test | 8 | 9 | 45.7% | - |")
    head, rule = lines[lines.index(row) - 2 : lines.index(row)]
    assert head.count("|") == rule.count("|") == row.count("|")


def test_training_is_described_if_there_was_any():
    assert "2,000 steps" in render()
    assert "1,234\ncategories" in render()
    assert "without any training" in render(categories=0)
    assert "None yet; run `python -m mixer_jax.evaluate`" in render()


def test_a_model_without_a_calibration_says_so():
    assert "None: answers have scores, but no probabilities." in render()
