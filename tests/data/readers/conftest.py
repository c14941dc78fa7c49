"""Runs `read` on data set files written by a test."""

import gzip
import pathlib

import pytest

from mixer_jax.data import read
from mixer_jax.data.tables import table


class Folder:
    """A data set's folder."""

    def __init__(self, root, capsys):
        self.root = root
        self._capsys = capsys

    def write(self, name, content):
        """Writes a file: text as UTF-8, and `.gz` files compressed."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode()
        if path.suffix.lower() == ".gz":
            content = gzip.compress(content)
        path.write_bytes(content)
        return path

    def images(self, *names):
        """Writes placeholder images; readers do not decode them."""
        for name in names:
            self.write(name, b"image")

    def read(self, name, *options):
        """Runs the command; returns the table and the output."""
        code, out, err = self.run(name, *options)
        assert code == 0, err
        path = pathlib.Path(out.split(": ")[0])
        return table.read_table(path), out.strip()

    def refuse(self, name, *options):
        """Runs a command that must fail; returns its error output."""
        code, out, err = self.run(name, *options)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        return err

    def run(self, name, *options):
        code = read.main([name, f"--root={self.root}", *options])
        return code, *self._capsys.readouterr()


@pytest.fixture
def folder(tmp_path, capsys):
    return Folder(tmp_path, capsys)
