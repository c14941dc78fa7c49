"""Reads a run's folder and writes its report."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables import table as table_lib
from mixer_jax.experiments import measure
from mixer_jax.reports import page, results, sheets
from mixer_jax.retrieval import embed, evaluate, runs
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checkpoints, workdir


class Examples(NamedTuple):
    """The contact sheets, or the reason why there are none."""

    sheets: list[sheets.Sheet]
    model: str
    missing: str


def build(
    run: str | os.PathLike,
    mesh: Mesh,
    path: str | os.PathLike = "",
    *,
    table: str = "",
    training_table: str = "",
    max_skipped: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> paths.Path:
    """Writes the report of a run: a curriculum or a single stage.

    Sections without data are replaced by a note on the page.

    Args:
      run: the run's folder.
      mesh: the devices on which the last stage's model embeds the examples.
      path: the path of the page; "" for `run/report/index.html`.
      table: the evaluated table; "" for the one in the stages' configs.
      training_table: the training table of the first stage; "" for the one in
        its config.
      max_skipped: the maximum share of evaluated samples to leave out; None for
        the value in the config.
      say: called with a message about each missing or unclear table.

    Returns:
      The path of the page.

    Raises:
      UserError: if the folder does not exist or has nothing to report.
    """
    run = paths.make(run)
    if not run.is_dir():
        raise UserError(f"There is no run in {run}.")
    if not (
        runs.find_stages(run) or page.read_rows(run) or page.read_ways(run)
    ):
        raise UserError(
            f"{run} contains nothing to report: no stage, metrics.json or "
            "categories.json. Set --workdir to the workdir of a trained run."
        )
    return page.write(
        path or run / "report" / "index.html",
        lambda: _render(run, mesh, table, training_table, max_skipped, say),
    )


def _render(
    run: paths.Path,
    mesh: Mesh,
    table: str,
    training_table: str,
    max_skipped: float | None,
    say: Callable[[str], None],
) -> str:
    """Returns the page; see `build`."""
    workdirs = runs.find_stages(run)
    configs = {folder: workdir.read_config(folder) for folder in workdirs}
    if workdirs and not table:
        note = runs.rival_note(workdirs[-1], configs[workdirs[-1]])
        if note:
            say(note)
    _set_tables(configs, table, training_table)
    logs = {
        config.name: page.read_log(folder) for folder, config in configs.items()
    }
    config = configs[workdirs[-1]] if workdirs else None
    examples = make_examples(workdirs, configs, mesh, max_skipped)
    for missing in _missing_tables(list(configs.values())):
        say(missing)
    return page.render(
        title=paths.absolute(run).name,
        rows=page.read_rows(run),
        logs={stage: series for stage, series in logs.items() if series},
        limits=config and config.monitors,
        ways=page.read_ways(run),
        sheets=examples.sheets,
        sheets_model=examples.model,
        sheets_missing=examples.missing,
        category_samples=_category_samples(configs, say),
        split=config.evaluate.split if config else "test",
        attribution=_attribution(config),
        simulated=any(
            map(page.is_simulation, paths.glob(run, "*/simulation.json"))
        ),
    )


def make_examples(
    workdirs: list[paths.Path],
    configs: dict[paths.Path, ConfigDict],
    mesh: Mesh,
    max_skipped: float | None = None,
) -> Examples:
    """Returns the contact sheets of the last stage that has a checkpoint."""
    done = [w for w in workdirs if workdir.latest_step(w) is not None]
    if not done:
        return Examples([], "", "This run has no checkpoint for ranking.")
    config = configs[done[-1]]
    path = evaluate.table_path(config)
    if not os.path.exists(path):
        return Examples(
            [],
            "",
            f"There is no table {path}, so there are no examples; if it was "
            "moved, pass its new path with --table=PATH.",
        )
    data = config.data
    limit = data.max_skipped if max_skipped is None else max_skipped
    frame, _ = evaluate.read(
        *(path, config.evaluate, limit, data.max_pixels),
        image_roots=data.image_roots,
    )
    trained = checkpoints.load_model(done[-1], mesh)
    root = table_lib.folder(path)
    embedder = embed.make_embedder(
        trained, root, mesh, config.evaluate.batch_size
    )
    rankings = sheets.rank_parts(
        embedder, frame, root, config.evaluate.split, mesh
    )
    return Examples(
        sheets.make_sheets(rankings, root),
        results.name(results.OURS, config.name),
        "No queries of the test split could be ranked.",
    )


def _set_tables(
    configs: dict[paths.Path, ConfigDict], table: str, training_table: str
) -> None:
    """Replaces the tables in the configs with the given ones.

    Raises:
      UserError: if a given table does not exist, or the rows of the
        training table differ from those that the stage was trained on.
    """
    for path in filter(None, (table, training_table)):
        if not os.path.exists(path):
            raise UserError(f"There is no sample table at {path}.")
    for number, (folder, config) in enumerate(configs.items()):
        config.evaluate.table = table or str(evaluate.table_path(config))
        if training_table and not number:
            config.data.table = training_table
            measure.training_rows(folder, config.data)


def _missing_tables(configs: list[ConfigDict]) -> Iterator[str]:
    """Yields a message with a remedy for each missing table."""
    for option, tables in (
        ("--table", [evaluate.table_path(config) for config in configs[-1:]]),
        ("--training-table", [config.data.table for config in configs]),
    ):
        if tables and not any(map(os.path.exists, tables)):
            yield (
                f"There is no table {tables[0]}, so the page shows no examples "
                f"from it; if it was moved, pass its path with {option}=PATH."
            )


def _category_samples(
    configs: dict[paths.Path, ConfigDict], say: Callable[[str], None]
) -> list[tuple[str, int, list[str]]]:
    """Chooses categories to show from the first training table that exists."""
    for folder, config in configs.items():
        path = config.data.table
        if not os.path.exists(path):
            continue
        try:
            frame = measure.training_rows(folder, config.data)
        except UserError as error:
            say(f"The page shows no examples of categories: {error}")
            return []
        return sheets.category_samples(frame, table_lib.folder(path))
    return []


def _attribution(config: ConfigDict | None) -> str:
    """Returns the ATTRIBUTION.md next to the evaluated table, or ""."""
    if config is None:
        return ""
    folder = table_lib.folder(evaluate.table_path(config))
    return page.read_note(folder / "ATTRIBUTION.md")
