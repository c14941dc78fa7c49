import numpy as np
import pytest

from mixer_jax import embed
from mixer_jax.retrieval.sharded import reading
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def out(color_run, colors, tmp_path):
    """A folder of the colors' embeddings."""
    given = [
        f"--workdir={color_run / 'stage2'}",
        f"--table={colors[0] / 'colors.csv'}",
        f"--out={tmp_path / 'out'}",
        "--shard-rows=5",
    ]
    assert embed.main(given) == 0
    return tmp_path / "out"


def test_parts_are_read_one_by_one(out, colors):
    _, frame = colors
    for role in ("query", "document"):
        parts = list(reading.batches(out, role))
        assert [len(ids) for ids, _ in parts] == [5, 5, 2]
        ids = np.concatenate([ids for ids, _ in parts])
        assert list(ids) == list(frame.sample_id[frame.role == role])
        for _, embeddings in parts:
            assert embeddings.dtype == np.float32
            assert embeddings.shape[1] == 3
            norms = np.linalg.norm(embeddings, axis=1)
            np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_damage_is_reported(out, tmp_path):
    for path in (out / "missing", tmp_path):
        with pytest.raises(UserError, match="no complete embeddings"):
            reading.read(path)
    part = out / "documents" / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert len(list(reading.batches(out, "query"))) == 3
    parts = reading.batches(out, "document")
    assert len(next(parts)[0]) == len(next(parts)[0]) == 5
    with pytest.raises(UserError, match=r"part-00002\.parquet is missing or"):
        next(parts)
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"x\.npz cannot be read"):
        reading.read(tmp_path / "x.npz")
