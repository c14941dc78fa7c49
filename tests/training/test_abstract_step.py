"""The step of a stage is compiled without data."""

import jax
import pytest

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import abstract_step, setup


@pytest.mark.parametrize("cached", [False, True])
def test_make_batch_matches_the_pipeline(toy, tiny_config, cached):
    tiny_config.data.cached = cached
    tiny_config.data.augment = "none"
    tiny_config.model.image.batch_norm = "frozen"
    tiny_config.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    run = setup.assemble(tiny_config, 12, mesh)
    made = abstract_step.make_batch(run)
    batch = toy.make_batch(tiny_config)
    shapes, wanted = (
        jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        for tree in (made, batch)
    )
    if cached:
        assert made["query"]["patches"].shape == (8, 1, 16)
        assert made["document"]["token_vectors"].shape == (8, 8, 16)
        assert "image" not in made["query"]
    else:
        assert shapes == wanted
    rows = mesh_lib.rows(mesh)
    assert all(leaf.sharding == rows for leaf in jax.tree.leaves(made))


def test_make_batch_has_embeddings_if_only_proxies_train(tiny_config):
    tiny_config.data.cached = True
    tiny_config.data.augment = "none"
    tiny_config.model.image.batch_norm = "frozen"
    tiny_config.optimizer.parts = (("", 0.0),)
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    made = abstract_step.make_batch(setup.assemble(tiny_config, 12, mesh))
    for role in ("query", "document"):
        assert set(made[role]) == {"embedding", "label"}
        assert made[role]["embedding"].shape == (8, 16)


def test_step_is_compiled_for_the_mesh(toy, tiny_config):
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    run = setup.assemble(tiny_config, 12, mesh)
    program = abstract_step.compile_step(run).as_text()
    assert "num_partitions=4" in program
    assert "all-gather" in program
