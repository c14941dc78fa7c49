import jinja2
import pytest

from mixer_jax.reports import templates


def test_missing_value_raises_an_error():
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        templates.render("page.html", title="a run")
