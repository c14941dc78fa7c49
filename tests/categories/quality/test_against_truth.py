import numpy as np
import pytest

from mixer_jax.categories.evidence.affinity import Rates
from mixer_jax.categories.find import Found
from mixer_jax.categories.quality import against_truth
from mixer_jax.runtime.errors import UserError

TRUTH = np.array(["a", "a", "b", "b"])


def test_perfect_categories_score_one():
    figures = against_truth.against_truth(np.array([7, 7, 2, 2]), TRUTH)
    assert list(figures.values()) == pytest.approx([1.0] * 5)


def test_metrics_match_a_worked_example():
    # Clusters {a, a, b} and {b}.
    figures = against_truth.against_truth(np.array([0, 0, 0, 1]), TRUTH)
    assert figures["purity"] == pytest.approx(3 / 4)
    precision = (2 / 3 + 2 / 3 + 1 / 3 + 1) / 4
    recall = (1 + 1 + 1 / 2 + 1 / 2) / 4
    assert figures["bcubed_precision"] == pytest.approx(precision)
    assert figures["bcubed_recall"] == pytest.approx(recall)
    f1 = 2 * precision * recall / (precision + recall)
    assert figures["bcubed_f1"] == pytest.approx(f1)


def test_noise_samples_count_as_single_clusters():
    noise = against_truth.against_truth(np.full(4, -1), TRUTH)
    assert noise["bcubed_precision"] == 1.0
    assert noise["bcubed_recall"] == 0.5
    assert noise == against_truth.against_truth(np.arange(4), TRUTH)


def test_shape():
    labels = np.array([0, 0, 0, 1, 1, -1, -1, 2, 2, 2])
    is_query = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1], bool)
    figures = against_truth.shape(labels, is_query)
    assert figures["categories"] == 3
    assert figures["noise_share"] == pytest.approx(0.2)
    assert figures["both_roles"] == pytest.approx(2 / 3)
    assert figures["sizes"] == {"2": 1, "3": 2}
    assert figures["largest"] == 3


@pytest.mark.parametrize(
    ("sizes", "wanted"), [([3, 3, 3], 0.0), ([0, 0, 0, 4], 0.75), ([], 0.0)]
)
def test_gini(sizes, wanted):
    assert against_truth.gini(np.array(sizes)) == pytest.approx(wanted)


def test_report_compares_baselines_on_samples_with_a_truth():
    labels = np.array([0, 0, 1, 1])
    found = Found(
        labels,
        -labels,
        -labels,
        labels,
        {"clicks": 1},
        Rates(),
        {"threshold": 0.25},
        {"share": (0.0, 1.0), "affinity": (1.0, 0.1)},
    )
    is_query = np.array([True, False, True, False])
    truth = np.array(["a", "a", "b", ""])
    figures = against_truth.report(found, is_query, truth)
    assert figures["ways"]["combined"]["bcubed_f1"] == 1.0
    assert figures["ways"]["every sample alone"]["bcubed_f1"] < 1.0
    assert set(figures["ways"]) == {
        "combined",
        "clicks alone",
        "content alone",
        "every sample alone",
    }
    assert "B-cubed F1 1.000" in against_truth.lines(figures)
    assert "Chosen from the data: threshold 0.25" in against_truth.lines(
        figures
    )
    assert figures["chosen"] == {"threshold": 0.25}
    assert figures["curve"]["affinity"] == (1.0, 0.1)
    blind = against_truth.report(found, is_query)
    assert "bcubed_f1" not in blind["ways"]["combined"]
    assert "B-cubed" not in against_truth.lines(blind)


def test_categories_that_differ_by_a_nul_character_are_distinct():
    truth = np.array(["a", "a\0"], object)
    found = against_truth.against_truth(np.array([0, 0]), truth)
    assert found["purity"] == 0.5


def test_categories_of_an_export_are_not_overwritten(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text('["a", "b"]')
    with pytest.raises(UserError, match=r"to exported proxies.* with --out"):
        against_truth.check_out(tmp_path)
    for content in ('{"ways": {}}', "[", ""):
        path.write_text(content)
        against_truth.check_out(tmp_path)
    path.unlink()
    against_truth.check_out(tmp_path)
