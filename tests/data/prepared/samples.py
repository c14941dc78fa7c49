"""Prepares tables in tests, and lists the files written."""

import os

from mixer_jax.data.prepared import build


def prepare(frame, root, place="", **settings):
    """Prepares a frame and returns its samples."""
    made = build.prepare(frame, root, place, **settings)
    made.remove_others()
    return made.source()


def contents(source):
    return [source[row] for row in range(len(source))]


def generations_of(root):
    return sorted((root / "prepared").glob("*/*"))


def files_named(made):
    return sorted(made.folder.rglob("*array_record*"))


def files_in(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.read_bytes()) for path in found]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def break_json(path):
    path.write_text('{"from": "a newer version"}')
