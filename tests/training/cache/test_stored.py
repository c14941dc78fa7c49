"""Behavior shared by both stores."""

import shutil

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.cache import embedding_store, feature_store


@pytest.mark.parametrize("store", [embedding_store, feature_store])
def test_full_disk_error_states_needed_and_free_space(
    make_stage, cached_config, store, monkeypatch, tmp_path
):
    _, _, make = make_stage(cached_config, store)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need .* GB in .*0\.00 GB free"):
        make()
