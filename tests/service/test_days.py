"""A shop's days: click logs, decisions, and what is kept of them."""

import json
import shutil

import pandas as pd
import pytest

from mixer_jax.categories import click_log
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import building, days, opening, upkeep
from mixer_jax.service.http.recording import Click, Recorder
from mixer_jax.service.stores.local import LocalStore
from mixer_jax.training.checkpoint import workdir
from tests.service.conftest import draw


@pytest.fixture
def shop(color_run, colors, tmp_path):
    """A shop whose index has the first stage of the color model."""
    catalog = colors[0] / "colors.csv"
    building.build(
        tmp_path / "shop/index", workdir=color_run / "stage1", table=catalog
    )
    return tmp_path / "shop"


@pytest.fixture
def record(tmp_path):
    """Returns a function that records clicks on items, one per query color."""

    def record(**clicks):
        recorder = Recorder(tmp_path / "events", 90)
        for color, item in clicks.items():
            shown = [item, "blue_document_forward", "sold out"]
            name = recorder.search(draw(color), "", shown)
            recorder.clicks([Click(recorder.parse(name), item, 0)])
        recorder.close()

    return record


@pytest.fixture
def begin(shop, colors, tmp_path):
    def begin(day):
        given = tmp_path / "events", colors[0] / "colors.csv", day
        return days.begin(shop, *given)

    return begin


def finish(shop, color_run, day, verdict):
    """Writes the results of a day; its model is the second stage."""
    folder = shop / "days" / day
    folder.mkdir(parents=True, exist_ok=True)
    with LocalStore.open(shop / "index") as store:
        model = opening.find_model(store)
    if not (folder / "current").exists():
        (folder / "current").symlink_to(model)
    shutil.copytree(color_run / "stage2", folder / "model")
    (folder / "comparison.json").write_text(json.dumps({"verdict": verdict}))
    return folder


def serving(shop):
    """Returns the generation's file, and the folder of its model."""
    with LocalStore.open(shop / "index") as store:
        return store.path.name, opening.find_model(store)


def test_clicks_become_the_log_of_a_day(begin, record, shop, colors):
    (shop.parent / "events").mkdir()
    assert "No events were recorded in" in begin("2026-01-01")
    record(red="red_document_forward", green="green_document_forward")
    message = begin("2026-01-01")
    assert (
        "2 clicks (2 new) for 2 pictures and a catalog of 12 items" in message
    )
    assert "with unknown items (2)" in message
    folder = shop / "days/2026-01-01"
    log = click_log.read_folder(folder)
    assert (len(log.queries), len(log.items)) == (2, 12)
    assert log.clicks["clicks"].sum() == 2
    # Images are inside the folder, as a table of found categories needs.
    for image in (*log.queries["image"], *log.items["image"]):
        assert image.startswith(f"{folder}/")
        assert days.pathlib.Path(image).is_file()
    assert (folder / "current").resolve().name == "stage1"
    assert not (folder / "previous").exists()


def test_a_day_without_new_clicks_leaves_no_trace(begin, record, shop):
    record(red="red_document_forward")
    begin("2026-01-01")
    assert "There are no new clicks in" in begin("2026-01-02")
    assert not (shop / "days/2026-01-02").exists()
    (shop / "days/2026-01-01/found.csv").write_text("")
    record(green="green_document_forward")
    assert "2 clicks (1 new)" in begin("2026-01-03")
    folder = shop / "days/2026-01-03"
    assert (folder / "previous").resolve() == shop / "days/2026-01-01"


def test_ids_of_the_first_model_are_not_used_for_others(
    begin, record, color_run, monkeypatch
):
    record(red="red_document_forward")
    monkeypatch.setattr(
        workdir, "read_categories", lambda folder: ["a", "found-00001"]
    )
    with pytest.raises(UserError, match="found-00000, and new categories"):
        begin("2026-01-01")
    table = color_run.parent / "found.csv"
    table.write_text("")
    config = json.loads((color_run / "stage1/config.json").read_text())
    config["data"]["table"] = str(table)
    (color_run / "stage1/config.json").write_text(json.dumps(config))
    begin("2026-01-01")
    folder = color_run.parent / "shop/days/2026-01-01"
    assert (folder / "previous").resolve() == color_run.parent


def test_days_are_begun_in_order(begin, shop):
    (shop / "days/2026-01-05").mkdir(parents=True)
    with pytest.raises(UserError, match="is before 2026-01-05, the latest day"):
        begin("2026-01-04")
    with pytest.raises(UserError, match="--day=9999-01-01 is in the future"):
        begin("9999-01-01")


def test_events_are_in_an_existing_local_folder(begin, shop):
    with pytest.raises(UserError, match="which creates it"):
        begin("2026-01-01")
    with pytest.raises(UserError, match="must be stored on this machine"):
        days.begin(shop, "http://x", "catalog.csv", "2026-01-01")


def test_a_folder_in_place_of_a_link_is_refused(begin, record, shop):
    record(red="red_document_forward")
    (shop / "days/2026-01-01/current").mkdir(parents=True)
    with pytest.raises(UserError, match="current is a folder instead of a"):
        begin("2026-01-01")


@pytest.mark.parametrize("verdict", ["worse", "unknown"])
def test_a_worse_model_is_not_used(shop, color_run, verdict):
    before = serving(shop)
    folder = finish(shop, color_run, "2026-01-01", verdict)
    message = days.decide(shop, "2026-01-01")
    assert f"is {verdict}; the index keeps the current model" in message
    assert serving(shop) == before
    assert not json.loads((folder / "decision.json").read_text())["switched"]


def test_a_decision_is_made_once(shop, color_run):
    folder = finish(shop, color_run, "2026-01-01", "not worse")
    message = days.decide(shop, "2026-01-01")
    assert "is not worse; the index was switched to it" in message
    assert serving(shop) == ("items-2.sqlite", folder / "model")
    upkeep.roll_back(shop / "index")
    again = days.decide(shop, "2026-01-01")
    assert again == f"This was decided before. {message}"
    assert serving(shop) == ("items-1.sqlite", color_run / "stage1")


def test_a_damaged_decision_is_refused(shop, color_run):
    folder = finish(shop, color_run, "2026-01-01", "worse")
    for text in ("{", "[]", '{"message": 1}'):
        (folder / "decision.json").write_text(text)
        with pytest.raises(UserError, match=r"n\.json is damaged; remove it"):
            days.decide(shop, "2026-01-01")


def test_nothing_is_decided_without_an_index(shop, color_run):
    folder = finish(shop, color_run, "2026-01-01", "worse")
    shutil.rmtree(shop / "index")
    with pytest.raises(UserError, match="There is no index in"):
        days.decide(shop, "2026-01-01")
    assert not (folder / "decision.json").exists()


def test_an_interrupted_decision_does_not_embed_again(
    shop, color_run, monkeypatch
):
    folder = finish(shop, color_run, "2026-01-01", "better")
    days.decide(shop, "2026-01-01")
    (folder / "decision.json").unlink()
    monkeypatch.setattr(days.rebuilding, "rebuild", None)
    days.decide(shop, "2026-01-01")
    assert serving(shop)[0] == "items-2.sqlite"


def test_a_model_must_have_been_compared_with_the_current_one(shop, color_run):
    folder = finish(shop, color_run, "2026-01-01", "better")
    (folder / "current").unlink()
    (folder / "current").symlink_to(color_run / "stage2")
    with pytest.raises(UserError, match="but the new model was compared with"):
        days.decide(shop, "2026-01-01")
    (folder / "comparison.json").unlink()
    with pytest.raises(UserError, match=r"There is no .*launch/daily\.sh"):
        days.decide(shop, "2026-01-01")


def test_old_days_keep_their_decisions_only(shop, color_run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "one.png").write_bytes(b"")
    names = [f"2026-01-0{number}" for number in range(1, 7)]
    for day in names:
        verdict = "worse" if day == names[2] else "better"
        folder = finish(shop, color_run, day, verdict)
        (folder / "pictures").symlink_to(pictures)
        days.decide(shop, day)
    left = {
        day: sorted(path.name for path in (shop / "days" / day).iterdir())
        for day in names
    }
    few = ["comparison.json", "decision.json"]
    # The current model and three before it: those of days 6, 5, 4 and 2.
    assert left[names[0]] == left[names[2]] == few
    whole = sorted(["current", "model", "pictures", *few])
    assert [left[names[n]] for n in (1, 3, 4, 5)] == [whole] * 4
    assert (pictures / "one.png").exists()
    # As if the last decision had been interrupted before old days were emptied.
    (shop / "days" / names[0] / "queries.csv").write_text("")
    days.decide(shop, names[-1])
    assert not (shop / "days" / names[0] / "queries.csv").exists()
    for number in (4, 3, 1):
        upkeep.roll_back(shop / "index")
        assert serving(shop)[1] == shop / "days" / names[number] / "model"
    with pytest.raises(UserError, match="no earlier generation"):
        upkeep.roll_back(shop / "index")


def test_days_are_dates(shop):
    for day in ("2026-1-1", "20260101", "../..", "2026-02-30"):
        with pytest.raises(UserError, match="is not a date such as"):
            days.decide(shop, day)


def test_fewer_clicks_than_before_are_not_new():
    def log(*rows):
        names = ["query_id", "item_id", "exposures", "clicks"]
        return pd.DataFrame(rows, columns=names)

    before = log(("a", "x", 5, 3), ("b", "x", 5, 1))
    now = log(("a", "x", 2, 1), ("b", "x", 9, 3), ("c", "y", 1, 1))
    assert days._count_new(now, before) == 3
    assert days._count_new(now, None) == 5
