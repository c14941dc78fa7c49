"""A table of a stage's parameters, with their layouts and learning rates."""

import io
import math

import jax

from mixer_jax.runtime import paths, terminal
from mixer_jax.training import setup

PARAMETERS = "parameters.txt"
_WIDTH = 160  # characters per line; narrower tables would truncate paths


def make(run: setup.Setup) -> terminal.Table:
    """Returns the table: path, shape, count, layout, and learning rate.

    Arrays that have one row per proxy but are not trained have no rate.
    """
    state, peak = run.state, run.config.optimizer.learning_rate
    table = terminal.Table(title=f"{run.config.name}: parameters")
    table.add_column("path", overflow="fold")
    table.add_column("shape")
    table.add_column("count", justify="right")
    table.add_column("layout")
    table.add_column("trainable")
    table.add_column("peak rate", justify="right")

    def add(path: str, leaf: jax.ShapeDtypeStruct, *rate: str) -> None:
        count, layout = f"{math.prod(leaf.shape):,}", str(leaf.sharding.spec)
        table.add_row(path, str(leaf.shape), count, layout, *rate)

    for path, leaf in setup.parameters(state.params).items():
        rate = run.rates[path] * peak
        add(path, leaf, "yes" if rate else "no", f"{rate:.3g}")
    rate = run.config.proxies.learning_rate
    add("proxies", state.proxies, "yes" if rate else "no", f"{rate:.3g}")
    for name in ("proxy_state", "graph"):
        for leaf in jax.tree.leaves(getattr(state, name)):
            add(name, leaf)
    return table


def count(run: setup.Setup) -> str:
    """Returns the total and the trainable parameter counts, as text."""
    sizes = {
        path: math.prod(leaf.shape)
        for path, leaf in setup.parameters(run.state.params).items()
    }
    trained = sum(n for path, n in sizes.items() if run.rates[path])
    return (
        f"{sum(sizes.values()):,} parameters, {trained:,} of them trainable, "
        f"and {math.prod(run.state.proxies.shape):,} in the proxies"
    )


def write(run: setup.Setup, workdir: paths.Path) -> None:
    """Writes the table to the file `PARAMETERS` in the workdir."""
    text = io.StringIO()
    console = terminal.Console(file=text, width=_WIDTH)
    console.print(make(run))
    console.print(f"{count(run)}.")
    with paths.reaching(workdir):
        paths.write(workdir / PARAMETERS, text.getvalue())
