import logging
import sys
import types

import pytest

from mixer_jax.training.checkpoint import orbax_messages


@pytest.fixture(autouse=True)
def hidden(monkeypatch):
    """Hides messages; the hook is restored afterwards, but the filters stay."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    orbax_messages.hide()
    return seen


def record(message, path="module.py", error=None):
    info = (type(error), error, None) if error else None
    return logging.LogRecord("x", logging.ERROR, path, 1, message, (), info)


METADATA = "orbax/checkpoint/_src/metadata/checkpoint.py"
NEVER = "Future exception was never retrieved"


@pytest.mark.parametrize("name", ["absl", "asyncio"])
@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (record("failed in _SignalingThread"), False),
        (record("Save Finalize thread failed"), False),
        (record("cannot parse", METADATA), False),
        (record(NEVER, error=ValueError("NOT_FOUND: no such file")), False),
        (record(NEVER, error=ValueError("of another program")), True),
        (record(NEVER, error=OSError("NOT_FOUND: no such file")), True),
        (record(NEVER), True),
        (record("something else", "orbax/checkpoint/manager.py"), True),
    ],
)
def test_only_repeated_messages_are_hidden(name, log, shown):
    assert bool(logging.getLogger(name).filter(log)) == shown


@pytest.mark.parametrize(
    ("error", "owner", "shown"),
    [
        (RuntimeError("Event loop is closed"), None, False),
        (RuntimeError("Event loop is closed"), object(), True),
        (RuntimeError("something else"), None, True),
    ],
)
def test_only_writes_to_a_closed_loop_are_hidden(hidden, error, owner, shown):
    sys.unraisablehook(types.SimpleNamespace(exc_value=error, object=owner))
    assert bool(hidden) == shown
