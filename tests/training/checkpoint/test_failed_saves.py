import pytest

from mixer_jax.runtime import paths
from mixer_jax.training.checkpoint import failed_saves, workdir


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Permission denied", "checkpoints: Permission denied. There is no"),
        ("RESOURCE_EXHAUSTED: No space left", "the disk is full .* GB free"),
    ],
)
def test_error_states_reason_and_remedy(tmp_path, reason, expected):
    error = failed_saves.explain(paths.make(tmp_path), reason)
    assert error.args
    with pytest.raises(type(error), match=expected) as caught:
        raise error
    assert str(caught.value).endswith("then run the same command again.")


def test_error_names_the_last_intact_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "latest_step", lambda folder: 7)
    error = failed_saves.explain(paths.make(tmp_path), "Input/output error")
    assert "The checkpoint of step 7 is intact" in str(error)


def test_remove_drafts_keeps_checkpoints(tmp_path):
    for name in ("3", "6.orbax-checkpoint-tmp", "6.orbax-checkpoint-tmp-1"):
        (tmp_path / name / "model").mkdir(parents=True)
    failed_saves.remove_drafts(paths.make(tmp_path))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["3", "6.orbax-checkpoint-tmp-1"]
