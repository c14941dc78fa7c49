"""The embed command with a stage of the color model."""

import re

import numpy as np

from mixer_jax import embed


def test_table_is_embedded(color_run, colors, tmp_path, capsys):
    root, frame = colors
    out = tmp_path / "new" / "out.npz"
    arguments = [
        f"--workdir={color_run / 'stage2'}",
        f"--table={root / 'colors.csv'}",
        f"--out={out}",
        "--batch-size=8",
    ]
    assert embed.main(arguments) == 0
    with np.load(out, allow_pickle=False) as arrays:
        assert set(arrays) == {
            "query_ids",
            "query_embeddings",
            "document_ids",
            "document_embeddings",
        }
        queries = frame.sample_id[frame.role == "query"]
        assert list(arrays["query_ids"]) == list(queries)
        assert arrays["document_embeddings"].shape == (12, 3)
        assert arrays["document_embeddings"].dtype == np.float32
    assert "12 queries and 12 documents" in capsys.readouterr().out


def test_unreadable_images_are_reported(color_run, colors, tmp_path, capsys):
    root, _ = colors
    (root / "red_query_forward.png").write_bytes(b"nothing")
    arguments = [
        f"--workdir={color_run / 'stage2'}",
        f"--table={root / 'colors.csv'}",
        f"--out={tmp_path / 'out.npz'}",
    ]
    # One of 24 exceeds the default limit of 1%.
    assert embed.main(arguments) == 2
    error = capsys.readouterr().err
    assert "1 of 24" in error
    assert "red_query_forward" in error
    assert not (tmp_path / "out.npz").exists()


def test_invalid_arguments_are_rejected(color_run, colors, tmp_path, capsys):
    table = f"--table={colors[0] / 'colors.csv'}"
    stage = f"--workdir={color_run / 'stage2'}"
    for arguments, message in (
        ([stage, table, "--out=x.csv"], ".npz"),
        ([stage, "--table=no.csv", "--out=x.npz"], "no.csv"),
        ([f"--workdir={tmp_path}", table, "--out=x.npz"], "no checkpoint"),
    ):
        assert embed.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_suggested_remedy_works(color_run, colors, tmp_path, capsys):
    root, _ = colors
    (root / "red_document_forward.png").write_bytes(b"nothing")
    arguments = [
        f"--workdir={color_run / 'stage2'}",
        f"--table={root / 'colors.csv'}",
        f"--out={tmp_path / 'out.npz'}",
    ]
    assert embed.main(arguments) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert embed.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0
