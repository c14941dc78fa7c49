import pytest

from mixer_jax.experiments import suites
from mixer_jax.experiments.objectives import OBJECTIVES
from mixer_jax.models.fusion import FUSIONS


@pytest.mark.parametrize("name", suites.SUITES)
def test_methods_are_distinct_and_known(name):
    methods = suites.SUITES[name]()
    assert len({method.name for method in methods}) == len(methods)
    identities = [str(method.identity()) for method in methods]
    assert len(set(identities)) == len(methods)
    for method in methods:
        assert method.loss in OBJECTIVES
        assert method.fusion in FUSIONS


def test_main_compares_every_loss_and_fusion():
    methods = [m for m in suites.main() if m.kind == suites.TOWERS]
    compared = {(method.loss, method.fusion) for method in methods}
    for fusion in ("image_only", "concept_attention"):
        assert {(loss, fusion) for loss in OBJECTIVES} <= compared
    assert {("cosface", fusion) for fusion in FUSIONS} <= compared
    assert suites.OURS in {method.name for method in methods}


def test_results_do_not_depend_on_where_they_are_shown():
    one, other = (suites.Method(name, name) for name in "ab")
    assert one.identity() == other.identity()
    changed = suites.Method("a", "a", fusion="gated")
    assert one.identity() != changed.identity()
