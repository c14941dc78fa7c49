import os
import subprocess
import sys

import pytest

from mixer_jax.runtime.ownership import owner_record


def test_record_round_trips_through_json():
    record = owner_record.make()
    assert owner_record.parse(owner_record.to_json(record)) == record


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "{", '{"host": "a"}', "[" * 9]
)
def test_invalid_texts_give_no_record(text):
    assert owner_record.parse(text) is None


def test_field_of_the_wrong_type_gives_no_record():
    record = owner_record.make()._replace(process="17")
    assert owner_record.parse(owner_record.to_json(record)) is None


def test_each_record_has_its_own_token():
    one, other = owner_record.make(), owner_record.make()
    assert one.token != other.token
    assert one._replace(token="") == other._replace(token="", start=one.start)


def test_this_process_is_alive_and_on_this_machine():
    record = owner_record.make()
    assert record.process == os.getpid()
    assert record.is_of_this_machine()
    assert record.is_alive()


@pytest.mark.parametrize("change", [{"host": "other"}, {"boot": "other"}])
def test_other_host_or_boot_is_another_machine(change):
    assert not owner_record.make()._replace(**change).is_of_this_machine()


def test_later_process_with_the_same_id_is_another_one():
    assert not owner_record.make()._replace(ticks="1").is_alive()


def test_ended_process_is_not_alive():
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as process:
        record = owner_record.make()._replace(
            process=process.pid, ticks=owner_record._ticks(process.pid)
        )
        assert record.is_alive()
        process.kill()
        process.wait()
        assert not record.is_alive()


def test_hidden_process_of_another_user_is_alive(monkeypatch):
    """With the mount option hidepid, /proc hides other users' processes."""

    def kill(process, signal):
        assert signal == 0
        if process != record.process:
            raise ProcessLookupError
        raise PermissionError

    record = owner_record.make()
    monkeypatch.setattr(owner_record, "_stat", lambda _: [])
    monkeypatch.setattr(os, "kill", kill)
    assert record.is_alive()
    assert not record._replace(process=2**22).is_alive()
