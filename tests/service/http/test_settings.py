"""Server settings given on the command line."""

import argparse

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http import settings

GIVEN = {
    "max_megabytes": 20,
    "max_megapixels": 50,
    "cors_origin": [],
    "read_key": None,
    "write_key": None,
    "log_requests": False,
    "events": None,
    "events_days": 90,
}


def read(**changes):
    return settings.read(argparse.Namespace(**GIVEN | changes))


def test_the_defaults_are_those_of_the_command():
    assert read() == settings.DEFAULTS


def test_keys_and_events_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "0123456789abcdef")
    found = read(write_key="env:KEY", events=str(tmp_path / "events"))
    found.recorder.close()
    assert found.keys.write == (b"0123456789abcdef",)
    assert not found.keys.read
    assert (tmp_path / "events" / "queries.csv").exists()


@pytest.mark.parametrize("megabytes", [0, -1, 1001, float("nan")])
def test_a_bad_size_is_reported(megabytes):
    with pytest.raises(UserError, match="at most 1000"):
        read(max_megabytes=megabytes)


@pytest.mark.parametrize(
    ("origin", "is_valid"),
    [("*", True), ("https://shop.example:8443", True), ("shop.example", False)]
    + [("https://shop.example/", False)],
)
def test_origins_are_checked(origin, is_valid):
    if is_valid:
        assert read(cors_origin=[origin]).origins == (origin,)
    else:
        with pytest.raises(UserError, match="must be a scheme and a host"):
            read(cors_origin=[origin])
