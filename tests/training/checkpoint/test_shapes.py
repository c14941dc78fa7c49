import jax.numpy as jnp
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import shapes


def test_flat_names_tree_elements_by_path():
    tree = {"params": {"kernel": jnp.zeros((2, 3))}, "list": [jnp.int32(1), 5]}
    assert shapes.flat(tree) == {"params/kernel": (2, 3), "list/0": ()}


def test_number_of_padded_rows_may_differ():
    shapes.check("run", {"proxies": (8, 3)}, {"proxies": (6, 3)})
    with pytest.raises(UserError, match=r"proxies: \(8, 3\) saved, \(8, 4\)"):
        shapes.check("run", {"proxies": (8, 3)}, {"proxies": (8, 4)})


def test_error_names_ten_differences_and_counts_the_rest():
    saved = {f"params/{index:02d}": (2,) for index in range(12)}
    with pytest.raises(UserError) as error:
        shapes.check("run/5", saved, {"params/new": (3,)})
    message = str(error.value)
    assert "run/5 has different shapes" in message
    assert "params/00: (2,) saved, absent expected" in message
    assert "and 3 more" in message
