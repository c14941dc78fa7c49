import json

import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import generations


def names(folder):
    return sorted(path.name for path in folder.glob("*.sqlite"))


def test_a_draft_is_continued_or_replaced(tmp_path):
    first = generations.begin(tmp_path, {"a": 1})
    assert generations.begin(tmp_path, {"a": 1}) == first
    with pytest.raises(UserError, match="is not complete; repeat the command"):
        generations.read(tmp_path)
    second = generations.begin(tmp_path, {"a": 2})
    assert names(tmp_path) == [second.name]
    generations.switch(second)
    assert generations.read(tmp_path) == second
    # The current generation never becomes a draft again.
    third = generations.begin(tmp_path, {"a": 2})
    assert names(tmp_path) == [second.name, third.name]
    assert generations.read(tmp_path) == second
    generations.switch(third)
    assert names(tmp_path) == [third.name]


def test_a_damaged_draft_is_replaced(tmp_path):
    first = generations.begin(tmp_path, {"a": 1})
    first.write_bytes(b"nothing")
    assert generations.begin(tmp_path, {"a": 1}) != first
    assert not first.exists()


@pytest.mark.parametrize("content", [b"nothing", None])
def test_a_damaged_generation_can_be_built_again(tmp_path, content):
    first = generations.begin(tmp_path, {"a": 1})
    generations.switch(first)
    first.unlink()
    if content is not None:
        first.write_bytes(content)
    second = generations.begin(tmp_path, {"a": 1})
    generations.switch(second)
    assert generations.read(tmp_path) == second
    assert names(tmp_path) == [second.name]


def test_numbers_are_not_used_again_while_the_file_is_locked(
    tmp_path, monkeypatch
):
    generations.switch(generations.begin(tmp_path, {}))

    def lock(connection):
        raise PassingError("locked")

    monkeypatch.setattr(generations.database, "last_numbers", lock)
    with pytest.raises(PassingError):
        generations.begin(tmp_path, {})


def test_a_used_generation_is_kept(tmp_path):
    first = generations.begin(tmp_path, {})
    generations.switch(first)
    second = generations.begin(tmp_path, {})
    with generations.using(first):
        generations.switch(second)
        assert names(tmp_path) == [first.name, second.name]
    generations.clean(tmp_path)
    assert names(tmp_path) == [second.name]
    assert [p.name for p in tmp_path.glob("*.users")] == []
    with pytest.raises(FileNotFoundError):
        generations.lock_users(first)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[]", "damaged"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ({"items": "items-1.sqlite"}, "the format in index.json is"),
        ({"format": 3}, "None is not the name"),
        ({"format": 3, "items": "../items-1.sqlite"}, "not the name"),
        ({"format": 3, "items": "/etc/passwd"}, "not the name"),
        ({"format": 3, "items": 1}, "not the name"),
        (
            {"format": 3, "items": "items-1.sqlite", "earlier": ["../a"]},
            "not the name",
        ),
        ({"format": 4, "items": 1}, "has format 4, but this version"),
        ({"format": 2}, "has format 2, which .* no longer reads; build it"),
    ],
)
def test_other_records_are_refused(tmp_path, record, message):
    text = record if isinstance(record, str) else json.dumps(record)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=message):
        generations.read(tmp_path)
    assert (tmp_path / "index.json").read_text() == text


def test_other_contents_are_not_replaced(tmp_path):
    with generations.owned(tmp_path):
        first = generations.begin(tmp_path, {})
    with generations.owned(tmp_path):
        pass
    first.unlink()
    first.mkdir()
    with (
        pytest.raises(UserError, match=r"items-1\.sqlite is a folder"),
        generations.owned(tmp_path),
    ):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.json").write_text('{"pages": []}')
    with (
        pytest.raises(UserError, match="has contents other than"),
        generations.owned(tmp_path / "other"),
    ):
        pass


def test_an_index_in_a_bucket_is_refused():
    with pytest.raises(UserError, match="must be stored on this machine"):
        generations.read("gs://bucket/index")


def test_kept_generations_can_be_returned_to(tmp_path):
    made = []
    for number in range(4):
        made.append(generations.begin(tmp_path, {"a": number}))
        generations.switch(made[-1], keep=2)
    assert generations.earlier(tmp_path) == made[2:0:-1]
    assert names(tmp_path) == [path.name for path in made[1:]]
    assert generations.roll_back(tmp_path) == made[2]
    assert generations.read(tmp_path) == made[2]
    generations.clean(tmp_path)
    assert generations.earlier(tmp_path) == [made[1]]
    # The next file gets a new name, and the abandoned one is removed.
    later = generations.begin(tmp_path, {"a": 4})
    assert later.name == "items-5.sqlite"
    assert not made[3].exists()
    generations.switch(later)
    assert names(tmp_path) == [later.name]
    with pytest.raises(UserError, match="no earlier generation to return to"):
        generations.roll_back(tmp_path)


def test_numbers_of_a_generation_that_was_left_are_not_used_again(tmp_path):
    for _ in range(2):
        path = generations.begin(tmp_path, {})
        generations.switch(path, keep=1)
    with generations.using(path) as left, left.writing() as connection:
        connection.execute(
            "UPDATE sqlite_sequence SET seq = 99 WHERE name = 'vectors'"
        )
    generations.roll_back(tmp_path)
    later = generations.begin(tmp_path, {"a": 1})
    with generations.using(later) as made, made.reading() as connection:
        assert generations.database.last_numbers(connection)[0] == 99
