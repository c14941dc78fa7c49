"""The table of parameters in a workdir."""

import re

import jax

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import parameter_table, setup


def test_table_has_a_row_per_parameter(toy, tiny_config, tmp_path):
    tiny_config.optimizer.learning_rate = 0.01
    tiny_config.optimizer.parts = (("text_encoder", 0.0), ("image", 0.5))
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    run = setup.assemble(tiny_config, 1000, mesh)
    parameter_table.write(run, tmp_path)
    lines = (tmp_path / parameter_table.PARAMETERS).read_text().splitlines()
    rows = {}
    for line in lines:
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if len(cells) == 6:
            rows[cells[0]] = cells[1:]
    paths = setup.parameters(run.state.params)
    assert set(paths) <= set(rows)
    for path, leaf in paths.items():
        shape, count, _, trainable, rate = rows[path]
        assert shape == str(leaf.shape)
        assert int(count.replace(",", "")) == leaf.size
        share = 0 if "text" in path else 0.5 if "image" in path else 1
        assert float(rate) == 0.01 * share
        assert trainable == ("yes" if share else "no")
    assert rows["proxies"][2:] == ["P('data',)", "yes", "0.5"]
    assert lines[-1] == f"{parameter_table.count(run)}."
