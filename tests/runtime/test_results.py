import shutil

import pytest

from mixer_jax.runtime import results
from mixer_jax.runtime.errors import UserError


def test_a_result_needs_room_on_its_own_disk(disk):
    free = shutil.disk_usage(disk).free
    place = disk / "new" / "folder"
    message = results.require_room(place, free / 1.2, "The features")
    assert message == (
        f"The features need 0.00 GB in {place}, which has 0.00 GB free."
    )
    assert not place.parent.exists()
    with pytest.raises(UserError, match=r"0 GB free\. Free up space"):
        results.require_room(place, free, "The features")
