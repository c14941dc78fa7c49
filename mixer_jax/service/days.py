"""A shop's folder, with a model trained each day, which may become current.

    SHOP/index            the index; its generation determines the current model
    SHOP/days/2026-01-31  one day:
      current             link to the model that was current when the day began
      previous            link to the categories whose IDs are kept, if any
      pictures, items     links to the pictures of queries and of the catalog
      queries.csv, items.csv, clicks.parquet    the click log
      found.csv, ...      the categories, from `mixer_jax.categorize`
      model               the workdir of the training
      comparison.json     from `mixer_jax.compare`
      decision.json       whether the index was switched to the new model

Model and index cannot disagree: a generation of an index records its model, and
one file names the current generation.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shutil

import pandas as pd

from mixer_jax.categories import identities
from mixer_jax.categories.clicks import recorded
from mixer_jax.data.tables import found
from mixer_jax.retrieval import bundle, compare, runs
from mixer_jax.runtime import files, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.text import counted
from mixer_jax.service import opening, rebuilding, sources
from mixer_jax.service.stores import generations
from mixer_jax.service.stores.local import LocalStore
from mixer_jax.training.checkpoint import workdir

KEPT = 3  # earlier generations to which a shop can roll back
CLICKS = "clicks.parquet"
COMPARISON, DECISION = "comparison.json", "decision.json"
_SWITCHED = (compare.BETTER, compare.NOT_WORSE)  # verdicts for a switch
_LAYOUT = tables.Layout(recorded.CLICK_COLUMNS)


def index_of(shop: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a shop's index."""
    return paths.local(shop, "A shop") / "index"


def day_of(shop: str | os.PathLike, day: str) -> pathlib.Path:
    """Returns the folder of a day.

    Raises:
      UserError: if `day` is not a date such as 2026-01-31.
    """
    if not _is_date(day):
        raise UserError(f"--day={day} is not a date such as 2026-01-31.")
    return paths.local(shop, "A shop") / "days" / day


def _is_date(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return datetime.date.fromisoformat(name).isoformat() == name
    return False


def begin(
    shop: str | os.PathLike,
    events: str | os.PathLike,
    catalog: str | os.PathLike,
    day: str,
) -> str:
    """Writes the click log of a day, unless there are no new clicks.

    Args:
      shop: the shop's folder, with an index.
      events: the folder in which the service records events.
      catalog: the sample table whose documents are the items.
      day: the date.

    Returns:
      A message with the numbers of queries, items and clicks.

    Raises:
      UserError: if an input is missing or invalid, or if the day is in the
        future or before another one.
    """
    folder = day_of(shop, day)
    _check_order(folder)
    _check_events(events)
    with LocalStore.open(index_of(shop)) as store:
        model, kinds = opening.find_model(store), store.fields
    last = _last_clicks(folder)
    if last is None and not recorded.exists(events):
        return f"No events were recorded in {os.fspath(events)} yet."
    previous = _previous(folder, model)
    source = sources.open_source(path=catalog, kinds=kinds)
    items = source.frame.drop_duplicates(sources.ITEM)
    log = recorded.read(events, items[sources.ITEM])
    new = _count_new(log.clicks, last)
    if not new:
        return f"There are no new clicks in {os.fspath(events)}."
    targets = {
        "current": model,
        "previous": previous,
        recorded.PICTURES: pathlib.Path(events, recorded.PICTURES),
        "items": source.folder,
    }
    files.make_folder(folder)
    with folder_lock.hold(folder, "--day"):
        for name, target in targets.items():
            _link(folder / name, target)
        _write(folder, log, items)
    left = [f"{reason} ({n:,})" for reason, n in log.left_out.items() if n]
    clicks = int(log.clicks["clicks"].sum())
    return (
        f"{day}: {counted(clicks, 'click')} ({new:,} new) for "
        f"{counted(len(log.queries), 'picture')} and a catalog of "
        f"{counted(len(items), 'item')}; events "
        f"left out: {', '.join(left) or 'none'}"
    )


def _check_order(folder: pathlib.Path) -> None:
    """Checks that a day is neither in the future nor before another one."""
    day = folder.name
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if day > today:
        raise UserError(
            f"--day={day} is in the future; choose a day up to {today} (UTC)."
        )
    latest = max((path.name for path in _days(folder)), default=day)
    if day < latest:
        raise UserError(
            f"--day={day} is before {latest}, the latest day in "
            f"{folder.parent}, whose clicks would count as new; choose "
            f"{latest} or a later day."
        )


def _check_events(events: str | os.PathLike) -> None:
    if not paths.local(events, "The folder of events").is_dir():
        raise UserError(
            f"There is no folder {os.fspath(events)}; correct --events, or "
            f"start the service with --events={os.fspath(events)}, which "
            "creates it."
        )


def _write(
    folder: pathlib.Path, log: recorded.Recorded, items: pd.DataFrame
) -> None:
    """Writes the tables of a click log, the clicks last."""
    images = [name and f"items/{name}" for name in items["image"]]
    columns = {"item_id": items[sources.ITEM], "image": images}
    rows = pd.DataFrame(columns | {"text": items["text"]})
    written = {"queries.csv": log.queries, "items.csv": rows}
    written[CLICKS] = log.clicks.astype(str)
    for name, frame in written.items():
        files.write(folder / name, tables.writer(frame, folder / name))


def _link(place: pathlib.Path, target: paths.Path | None) -> None:
    """Makes a symbolic link, unless there is no target."""
    if place.is_dir() and not place.is_symlink():
        raise UserError(f"{place} is a folder instead of a link; remove it.")
    place.unlink(missing_ok=True)
    if target is not None:
        place.symlink_to(paths.absolute(target))


def _days(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of a shop's days, given one of them, latest first."""
    if not folder.parent.is_dir():
        return []
    found = (path for path in folder.parent.iterdir() if _is_date(path.name))
    return sorted(found, reverse=True)


def _earlier(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the days before a given one, latest first."""
    return [path for path in _days(folder) if path.name < folder.name]


def _last_clicks(folder: pathlib.Path) -> pd.DataFrame | None:
    """Returns the clicks of the last day with any."""
    for other in _earlier(folder):
        if (other / CLICKS).exists():
            frame = tables.read(other / CLICKS, _LAYOUT)
            return frame.astype({"exposures": int, "clicks": int})
    return None


def _count_new(clicks: pd.DataFrame, before: pd.DataFrame | None) -> int:
    """Returns the number of clicks since an earlier log.

    Old events expire, so a pair with fewer clicks than before has no new ones.
    """
    pair = ["query_id", "item_id"]
    new = clicks.set_index(pair)["clicks"]
    if before is not None:
        old = before.set_index(pair)["clicks"]
        new = new - old.reindex(new.index, fill_value=0)
    return int(new.clip(lower=0).sum())


def _previous(folder: pathlib.Path, model: paths.Path) -> pathlib.Path | None:
    """Returns the folder of the categories whose IDs are kept.

    Without an earlier day, these are the categories of the current model if
    their IDs could be confused with new ones.
    """
    for other in _earlier(folder):
        if (other / found.FOUND).exists():
            return other
    if bundle.is_bundle(model):
        return None
    if not any(map(identities.is_found, workdir.read_categories(model))):
        return None
    table = pathlib.Path(runs.read_config(model).data.table)
    if table.name == found.FOUND and table.is_file():
        return table.parent
    raise UserError(
        f"The categories of {model} have IDs such as {identities.name(0)}, and "
        f"new categories must not reuse them, but {table} is missing; put it "
        f"back, with the {identities.LEDGER} next to it."
    )


def decide(shop: str | os.PathLike, day: str) -> str:
    """Switches the index to the model of a day if it is not worse.

    Repeating the call changes nothing, even after a roll-back.

    Returns:
      A message that says what was decided.

    Raises:
      UserError: if there is no index, if the models were not compared, or if
        the index has another model than the one compared with.
    """
    folder = day_of(shop, day)
    LocalStore.open(index_of(shop)).close()  # raises without an index
    if (folder / DECISION).exists():
        message = f"This was decided before. {_read_message(folder / DECISION)}"
    else:
        message = _decide(index_of(shop), folder)
    _prune(shop)
    return message


def _read_message(place: pathlib.Path) -> str:
    """Returns the message of a decision."""
    try:
        message = json.loads(place.read_text("utf-8"))["message"]
        if not isinstance(message, str):
            raise TypeError("the message is not text")
        return message
    except compare.DAMAGE as error:
        raise UserError(
            f"{place} is damaged; remove it, and decide again with "
            "launch/daily.sh or python -m mixer_jax.daily decide."
        ) from error


def _decide(index: pathlib.Path, folder: pathlib.Path) -> str:
    """Switches the index or keeps it, and writes the decision."""
    verdict = compare.read(folder / COMPARISON)["verdict"]
    switched = verdict in _SWITCHED
    if switched:
        _switch(index, folder)
    result = "was switched to it" if switched else "keeps the current model"
    message = f"{folder.name}: the new model is {verdict}; the index {result}"
    text = json.dumps({"switched": switched, "message": message}, indent=2)
    files.write_text(folder / DECISION, text + "\n")
    return message


def _switch(index: pathlib.Path, folder: pathlib.Path) -> None:
    """Embeds the items with the model of a day, unless already done."""
    model = runs.find_models(folder / "model")[-1].workdir
    with LocalStore.open(index) as store:
        current = opening.find_model(store)
    if os.path.samefile(current, model):
        return
    if not os.path.samefile(current, folder / "current"):
        raise UserError(
            f"The index {index} has the model {current}, but the new model was "
            f"compared with {os.path.realpath(folder / 'current')}; remove "
            f"{folder}, and repeat the day."
        )
    rebuilding.rebuild(index, model, keep=KEPT)


def _prune(shop: str | os.PathLike) -> None:
    """Removes what no kept generation needs, except for the decisions."""
    index, used = index_of(shop), set()
    for path in (generations.read(index), *generations.earlier(index)):
        with LocalStore(path) as store, contextlib.suppress(UserError):
            used.add(os.path.realpath(opening.find_model(store)))
    folders = [p for p in (index.parent / "days").iterdir() if _is_date(p.name)]
    for folder in sorted(folders)[:-1]:
        model = os.path.realpath(folder / "model")
        if not any(f"{one}/".startswith(f"{model}/") for one in used):
            _empty(folder)


def _empty(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        if path.name in (COMPARISON, DECISION):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
