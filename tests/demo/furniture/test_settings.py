import pytest

from mixer_jax.demo.furniture import settings
from mixer_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 63}, "size is 63 pixels; it must be from 64 to 256"),
        ({"size": 257}, "size is 257 pixels"),
        ({"views": 0}, "views is 0; it must be from 1 to 100"),
        ({"views": 101}, "views is 101"),
        ({"limit": 0}, "limit is 0 products; it must be 1 or more"),
    ],
)
def test_setting_out_of_range_is_rejected(keys, message):
    settings.check(settings.Settings())
    with pytest.raises(UserError, match=message):
        settings.check(settings.Settings(**keys))
