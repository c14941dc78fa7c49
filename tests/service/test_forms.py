import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import forms


@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_has_a_parser(form, capsys):
    parser = forms.make_parser(form)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert f"mixer_jax.index {form}" in capsys.readouterr().out
    assert f"  {form} " in forms.listing()


def test_options_that_are_not_given_are_absent():
    parser = forms.make_parser("build")
    given = vars(parser.parse_args(["--out=o", "--batch-size=8"]))
    assert given == {"out": "o", "batch_size": 8}
    parser = forms.make_parser("delete")
    given = vars(parser.parse_args(["--index=i", "--id=a", "--id=b"]))
    assert given == {"index": "i", "id": ["a", "b"]}
    with pytest.raises(UserError, match="'del' of mixer_jax"):
        forms.make_parser("del")
