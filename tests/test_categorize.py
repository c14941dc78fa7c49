import contextlib
import json
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax import categorize
from mixer_jax.categories import find
from mixer_jax.data.tables import holdout, table
from mixer_jax.demo import click_model, simulate
from mixer_jax.runtime.ownership import folder_lock
from tests import every_command

COUNT = 60
WRITTEN = ["categories.json", "found.csv", "identities.json", "unassigned.csv"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A table with one query and one document per category, and its log."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    rows = []
    for i in range(COUNT):
        image = f"images/{i}.png"
        pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / image)
        split = "test" if i % 10 == 0 else "train"
        rows.append((f"q{i}", "query", image, "", f"c{i}", "g", split))
        rows.append(
            (f"d{i}", "document", image, f"it {i}", f"c{i}", "g", split)
        )
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    truth = tmp_path / "data" / "table.csv"
    table.write_table(table.with_both_directions(frame), truth)
    settings = click_model.Simulation(searches=80.0)
    simulate.write_log(truth, tmp_path / "log", settings, "forward")

    calls = []

    def image_features(name, paths, size):
        calls.append(name)
        pixels = [np.asarray(Image.open(path)).ravel() for path in paths]
        return np.stack(pixels).astype(np.float32)

    def text_features(name, texts, length):
        calls.append(name)
        return rng.normal(size=(len(texts), 8)).astype(np.float32)

    monkeypatch.setattr(categorize.features, "image_features", image_features)
    monkeypatch.setattr(categorize.features, "text_features", text_features)
    return tmp_path, truth, calls


def test_found_table_has_training_and_test_samples(run, capsys):
    root, truth, calls = run
    arguments = [f"--log={root}/log", f"--out={root}", f"--truth={truth}"]
    assert categorize.main(arguments) == 0
    assert "B-cubed F1" in capsys.readouterr().out
    found = table.read_table(root / "found.csv")
    known = table.read_table(truth).set_index("sample_id")
    assert all((root / image).is_file() for image in found["image"] if image)

    train = table.select(found, "train")
    assert table.parts(train, "train") == ["forward", "reverse"]
    assert train["category_id"].str.startswith("found-").all()
    assert known.loc[train["sample_id"], "split"].str.startswith("train").all()
    assert (train.groupby("category_id").size() >= 2).all()
    test = table.select(found, "test").set_index("sample_id")
    wanted = known[known["split"].str.startswith("test")]
    assert set(test.index) == set(wanted.index)
    same = ["category_id", "group", "split", "text", "role"]
    pd.testing.assert_frame_equal(test[same], wanted.loc[test.index, same])

    left = pd.read_csv(root / "unassigned.csv")
    ours = len(train[train["split"] == "train/forward"])
    assert ours + len(left) + 2 * (COUNT // 10) == 2 * COUNT
    figures = json.loads((root / "categories.json").read_text())
    assert figures["ways"]["combined"]["bcubed_f1"] > 0.8
    assert calls == ["efficientnet-lite0", "minilm"]

    assert categorize.main(arguments) == 0
    assert len(calls) == 2  # The features are cached.


def test_without_truth_no_samples_are_held_out(run, capsys):
    root, _, _ = run
    assert categorize.main([f"--log={root}/log", f"--out={root}"]) == 0
    assert "B-cubed" not in capsys.readouterr().out
    found = table.read_table(root / "found.csv")
    assert set(found["split"]) == {"train/forward", "train/reverse"}


def test_unreadable_image_is_reported(run, capsys):
    root, truth, _ = run
    (root / "data" / "images" / "3.png").write_bytes(b"not an image")
    arguments = [f"--log={root}/log", f"--out={root}", f"--truth={truth}"]
    assert categorize.main([*arguments, "--max-skipped=0.1"]) == 0
    assert "2 of 120 samples skipped" in capsys.readouterr().out
    found = table.read_table(root / "found.csv")
    assert not {"q3", "d3"} & set(found["sample_id"])
    assert categorize.main([*arguments, "--max-skipped=0"]) == 2
    assert "3.png" in capsys.readouterr().err


def test_invalid_input_raises_an_error(run, capsys):
    root, truth, calls = run
    assert categorize.main([f"--log={root}/no", f"--out={root}"]) == 2
    assert capsys.readouterr().err.startswith("error: The click log")
    elsewhere = [f"--log={root}/log", f"--out={root}/log"]
    assert categorize.main(elsewhere) == 2
    assert "is not inside" in capsys.readouterr().err
    other = table.read_table(truth).assign(
        sample_id=lambda frame: "other-" + frame["sample_id"]
    )
    table.write_table(other, root / "data" / "other.csv")
    arguments = [f"--log={root}/log", f"--out={root}"]
    wrong = f"--truth={root}/data/other.csv"
    assert categorize.main([*arguments, wrong]) == 2
    assert "IDs must be the same" in capsys.readouterr().err
    assert not calls


def test_same_log_keeps_all_category_ids(run, capsys):
    root, truth, _ = run
    arguments = [f"--log={root}/log", f"--out={root}", f"--truth={truth}"]
    assert categorize.main(arguments) == 0
    assert "Chosen from the data: threshold 0." in capsys.readouterr().out
    first = table.read_table(root / "found.csv")
    figures = json.loads((root / "categories.json").read_text())
    assert 0 < figures["chosen"]["threshold"] < 1
    assert len(figures["curve"]["share"]) == len(figures["curve"]["affinity"])
    more = f"--previous={root}/found.csv"
    assert categorize.main([*arguments, more]) == 0
    again = table.read_table(root / "found.csv")
    pd.testing.assert_frame_equal(first, again, check_names=False)
    report = json.loads((root / "identities.json").read_text())
    ours = again["category_id"].str.match("found-")
    assert report["kept"] == again["category_id"][ours].nunique() > 0
    assert not report["moved"]
    assert not report["appeared"]


def test_next_log_keeps_most_category_ids(run, capsys):
    root, truth, _ = run
    assert categorize.main([f"--log={root}/log", f"--out={root}"]) == 0
    first = table.read_table(root / "found.csv").set_index("sample_id")
    settings = click_model.Simulation(searches=80.0, seed=1)
    simulate.write_log(truth, root / "next", settings, "forward")
    out = [f"--log={root}/next", f"--out={root}"]
    assert categorize.main([*out, f"--previous={root}/found.csv"]) == 0
    assert " kept, " in capsys.readouterr().out
    again = table.read_table(root / "found.csv").set_index("sample_id")
    both = first.index.intersection(again.index)
    same = first.loc[both, "category_id"] == again.loc[both, "category_id"]
    assert len(both) > COUNT
    assert same.mean() > 0.9


def test_held_out_categories_stay_held_out(run, capsys):
    root, truth, _ = run
    out = [f"--log={root}/log", f"--out={root}", "--hold-out"]
    assert categorize.main(out) == 0
    first = table.read_table(root / "found.csv").set_index("sample_id")
    splits = first["split"].str.split("/").str[0]
    is_test = first["category_id"].map(holdout.is_test)
    assert is_test.any()
    assert ((splits == "test") == is_test).all()
    # Reversed test rows are not taken for other samples.
    assert categorize.main([*out, f"--previous={root}/found.csv"]) == 0
    again = table.read_table(root / "found.csv").set_index("sample_id")
    pd.testing.assert_frame_equal(first, again, check_names=False)
    report = json.loads((root / "identities.json").read_text())
    assert not report["moved"]
    assert not report["appeared"]
    assert categorize.main([*out, f"--truth={truth}"]) == 2
    assert "leave out --hold-out" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["hdbscan", "components", "kmeans"])
def test_other_methods_find_the_categories(run, method, capsys):
    root, truth, _ = run
    arguments = [f"--log={root}/log", f"--out={root}", f"--truth={truth}"]
    given = [f"--method={method}", f"--k={COUNT}", "--max-size=5"]
    assert categorize.main([*arguments, *given]) == 0
    figures = json.loads((root / "categories.json").read_text())
    assert figures["ways"]["combined"]["bcubed_f1"] > 0.8
    assert figures["ways"]["combined"]["largest"] <= 5
    assert categorize.main([*arguments, "--method=optics"]) == 2
    assert "hdbscan" in capsys.readouterr().err


def test_second_run_in_the_same_folder_is_rejected(run, capsys):
    root, _, calls = run
    with folder_lock.hold(root / "out", "--out"):
        code = categorize.main([f"--log={root}/log", f"--out={root}/out"])
    assert code == 2
    assert "Another run is using" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize("option", ["--image-encoder", "--text-encoder"])
def test_unknown_encoder_is_rejected_before_images_are_read(
    option, tmp_path, capsys
):
    given = [f"--log={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert categorize.main([*given, f"{option}=resnet50"]) == 2
    assert "encoder named 'resnet50'. Known: " in capsys.readouterr().err


def _train_only(frame):
    splits = frame["split"].str.replace("test", "train")
    return frame.assign(split=splits)


def _image_outside(frame):
    image = frame["image"].where(frame["sample_id"] != "q0", "../other/0.png")
    return frame.assign(image=image)


def _named_as_found(frame):
    return frame.assign(category_id="found-00001")


def _all_test(frame):
    splits = frame["split"].str.replace("train", "test")
    return frame.assign(split=splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_train_only, "no samples of split 'test'"),
        (_named_as_found, "line 2, column category_id: the test category"),
        (_all_test, "no training samples remain"),
        (_image_outside, "must be relative to the table's folder"),
    ],
)
def test_unsuitable_truth_is_rejected_before_the_work(
    run, capsys, monkeypatch, change, message
):
    root, truth, _ = run
    change(pd.read_csv(truth, dtype=str, keep_default_na=False)).to_csv(
        truth, index=False
    )
    monkeypatch.delattr(categorize.checking, "check_images")
    arguments = [f"--log={root}/log", f"--out={root}", f"--truth={truth}"]
    assert categorize.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("~1.png", "q1", "must be relative to the table's folder"),
        ("..1.png", "q1", ""),
        ("1.png", "reverse:q2", "an earlier row has the same ID 'reverse:q2'"),
    ],
)
def test_unsuitable_samples_are_rejected_before_the_work(
    run, capsys, monkeypatch, name, query, message
):
    root, _, _ = run
    (root / "data" / "images" / "1.png").rename(root / name)
    for file, old in (("queries", "q1,"), ("clicks", "q1,")):
        path = root / "log" / f"{file}.csv"
        text = path.read_text().replace(f"\n{old}", f"\n{query},")
        text = text.replace("../data/images/1.png", f"../{name}")
        path.write_text(text)
    items = root / "log" / "items.csv"
    changed = items.read_text().replace("../data/images/1.png", f"../{name}")
    items.write_text(changed)
    if message:
        monkeypatch.delattr(categorize.checking, "check_images")
    code = categorize.main([f"--log={root}/log", f"--out={root}"])
    assert code == (2 if message else 0)
    assert message in capsys.readouterr().err


def test_full_disk_rescues_all_files_together(
    run, disk, tmp_path, monkeypatch, capsys
):
    root, _, _ = run
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    for name in ("data", "log"):
        shutil.copytree(root / name, disk / name)
    arguments = [f"--log={disk}/log", f"--out={disk}"]
    assert categorize.main(arguments) == 0
    room = -(-os.path.getsize(disk / "found.csv") // 4096) * 4096
    for name in WRITTEN:
        (disk / name).unlink()
    before = dict(every_command.contents(disk))
    real = find.find_categories

    def find_categories(*given):
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(512))
        # found.csv fits, but the other files do not.
        os.truncate(disk / "filler", os.path.getsize(disk / "filler") - room)
        return real(*given)

    monkeypatch.setattr(find, "find_categories", find_categories)
    monkeypatch.chdir(tmp_path)
    assert categorize.main(arguments) == 2
    error = capsys.readouterr().err
    (kept,) = tmp_path.glob("rescued-*/disk")
    assert str(kept) in error
    assert sorted(path.name for path in kept.iterdir()) == WRITTEN
    (disk / "filler").unlink()
    assert dict(every_command.contents(disk)) == before


def test_truth_is_not_overwritten(run, capsys, monkeypatch):
    root, truth, _ = run
    copy = root / "found.csv"
    shutil.copy(truth, copy)
    (root / "link.csv").symlink_to(copy)
    monkeypatch.delattr(categorize.checking, "check_images")
    for name in ("found.csv", "link.csv"):
        arguments = [f"--log={root}/log", f"--out={root}"]
        assert categorize.main([*arguments, f"--truth={root}/{name}"]) == 2
        assert f"--truth={root}/{name} would be" in capsys.readouterr().err


def test_folder_of_an_export_is_rejected(run, capsys, monkeypatch):
    root, _, _ = run
    (root / "categories.json").write_text('["c1", "c2"]')
    monkeypatch.delattr(categorize.checking, "check_images")
    assert categorize.main([f"--log={root}/log", f"--out={root}"]) == 2
    assert "belongs to exported proxies" in capsys.readouterr().err
    assert (root / "categories.json").read_text() == '["c1", "c2"]'
