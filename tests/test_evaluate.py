"""The evaluate command with a run of the color model."""

import json
import re
import shutil

from mixer_jax import evaluate, report
from mixer_jax.data.tables import table
from mixer_jax.retrieval.evaluate import MEASURES
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checkpoints


def test_stages_and_other_models_are_evaluated(color_run, capsys):
    arguments = [
        f"--workdir={color_run}",
        f"--model=twin, one={color_run}/stage1",
        f"--model=last={color_run}",
    ]
    assert evaluate.main(arguments) == 0
    rows = json.loads((color_run / "metrics.json").read_text())
    # Two stages and two other models, two parts and their mean, two galleries.
    assert len(rows) == 4 * 3 * 2
    assert {(r["model"], r["stage"]) for r in rows} == {
        ("mixer", "stage1"),
        ("mixer", "stage2"),
        ("twin, one", "stage1"),
        ("last", "stage2"),
    }
    assert all(row["identical_at_1"] == 1.0 for row in rows)
    wanted = {"queries", "documents", "seconds", *MEASURES}
    assert all(row[name] is not None for row in rows for name in wanted)
    assert "mixer, stage2" in capsys.readouterr().out


def test_repeated_evaluation_of_a_stage_replaces_its_rows(color_run, tmp_path):
    out = tmp_path / "rows.json"
    arguments = [f"--workdir={color_run / 'stage1'}", f"--out={out}"]
    assert evaluate.main(arguments) == 0
    assert evaluate.main(arguments) == 0
    assert len(json.loads(out.read_text())) == 6


def test_invalid_arguments_are_rejected(color_run, tmp_path, capsys):
    for arguments, message in (
        ([f"--workdir={tmp_path / 'no'}"], "no trained stage"),
        ([f"--workdir={color_run}", "--stage=stage9"], "'stage9'"),
        ([f"--workdir={color_run}", "--model=x"], "NAME=WORKDIR"),
        ([f"--workdir={color_run}", "--table=no.csv"], "no.csv"),
    ):
        assert evaluate.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (color_run / "metrics.json").exists()


def test_suggested_remedy_works(color_run, colors, capsys):
    root, _ = colors
    (root / "red_document_forward.png").write_bytes(b"nothing")
    arguments = [f"--workdir={color_run}", "--stage=stage2"]
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert evaluate.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0


def test_suggested_remedy_for_queries_without_documents_works(
    color_run, colors, capsys
):
    root, frame = colors
    red = (frame.category_id == "red") & (frame.role == "document")
    table.write_table(frame[~red], root / "colors.csv")
    arguments = [f"--workdir={color_run}", "--stage=stage2"]
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert evaluate.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0


def test_no_queries_to_evaluate_is_an_error(color_run, colors, capsys):
    root, frame = colors
    test = frame.split.str.startswith("test")
    documents = test & (frame.role == "document")
    frame.loc[documents, "category_id"] += " as sold"
    table.write_table(frame, root / "colors.csv")
    arguments = [f"--workdir={color_run}", "--max-skipped=1"]
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert "there is nothing to measure" in error
    assert not (color_run / "metrics.json").exists()


def test_missing_checkpoint_is_rejected_before_the_work(color_run, capsys):
    shutil.rmtree(color_run / "stage2" / "checkpoints")
    assert evaluate.main([f"--workdir={color_run}"]) == 2
    assert "stage2" in capsys.readouterr().err
    assert not (color_run / "metrics.json").exists()


def test_results_before_a_failure_are_kept(color_run, monkeypatch, capsys):
    load = checkpoints.load_model

    def damaged(folder, mesh):
        if folder.name == "stage2":
            raise UserError("The checkpoint of stage2 is damaged.")
        return load(folder, mesh)

    monkeypatch.setattr(checkpoints, "load_model", damaged)
    assert evaluate.main([f"--workdir={color_run}"]) == 2
    assert "damaged" in capsys.readouterr().err
    rows = json.loads((color_run / "metrics.json").read_text())
    assert {row["stage"] for row in rows} == {"stage1"}


def test_folder_of_parquet_files_is_a_table(
    color_run, colors, tmp_path, capsys, monkeypatch
):
    root, frame = colors
    (root / "parts").mkdir()
    for name, rows in (("a", frame[:9]), ("b", frame[9:])):
        rows.to_parquet(root / "parts" / f"{name}.parquet", index=False)
    monkeypatch.chdir(root / "parts")
    for number, path in enumerate((str(root / "parts"), ".", "../parts/")):
        out = f"--out={tmp_path / f'{number}.json'}"
        run = [f"--workdir={color_run}", "--stage=stage2", out]
        tables = [f"--table={path}", f"--training-table={path}"]
        assert evaluate.main([*run, *tables]) == 0
        assert capsys.readouterr().err == ""
        assert report.main([f"--workdir={color_run}", *tables]) == 0
        assert "no table" not in capsys.readouterr().out


def test_copied_table_with_other_contents_is_reported(
    color_run, colors, tmp_path, capsys
):
    root, _ = colors
    for name in (color_run, root):
        shutil.copytree(name, tmp_path / "copy" / name.name)
    copied = tmp_path / "copy" / root.name / "colors.csv"
    run = f"--workdir={tmp_path / 'copy' / color_run.name}"
    arguments = [run, "--stage=stage2"]
    assert evaluate.main(arguments) == 0
    assert "other contents" not in capsys.readouterr().out
    lines = copied.read_text().splitlines(keepends=True)
    copied.write_text("".join([lines[0], *reversed(lines[1:])]))
    assert evaluate.main(arguments) == 0
    output = "".join(capsys.readouterr().out.split())
    wanted = f"measured on {copied}, but {root / 'colors.csv'} has other"
    assert "".join(wanted.split()) in output
    assert report.main([run]) == 0
    assert "--table=PATH" in capsys.readouterr().out
    for path in (copied, root / "colors.csv"):
        assert evaluate.main([*arguments, f"--table={path}"]) == 0
        assert "other contents" not in capsys.readouterr().out
