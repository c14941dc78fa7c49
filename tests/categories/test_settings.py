import argparse

import pytest

from mixer_jax.categories import settings
from mixer_jax.runtime.errors import UserError


def _parse(*arguments):
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    return settings.from_flags(parser.parse_args(arguments))


def test_omitted_flags_have_the_defaults():
    assert _parse() == settings.Settings()


def test_flags_set_the_settings():
    given = _parse(
        "--method=kmeans", "--k=7", "--threshold=0.4", "--max-size=9"
    )
    assert given == settings.Settings(
        method="kmeans", k=7, threshold=0.4, max_size=9
    )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--method=optics", ["optics", "hdbscan"]),
        ("--threshold=0", ["threshold", "greater than 0"]),
        ("--threshold=1.5", ["1.5"]),
        ("--neighbors=0", ["neighbors", "1 or more"]),
        ("--min-samples=1", ["--min-samples is 1", "2 or more"]),
        ("--max-size=1", ["--max-size is 1"]),
        ("--k=-1", ["k is -1"]),
    ],
)
def test_invalid_flags_raise_an_error(flag, words):
    with pytest.raises(UserError) as error:
        _parse(flag)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": "0.3"}, "--threshold is '0.3'; it must be a number"),
        ({"max_size": "10"}, "--max-size is '10'; it must be a whole number"),
        ({"max_size": 2.5}, "--max-size is 2.5; it must be a whole number"),
        ({"neighbors": None}, "--neighbors is None; it must be a whole"),
        ({"k": True}, "--k is True; it must be a whole number"),
        ({"method": 3}, "--method is 3; it must be text"),
    ],
)
def test_values_of_another_type_raise_an_error(changes, message):
    with pytest.raises(UserError, match=message):
        settings.Settings(**changes).check()
