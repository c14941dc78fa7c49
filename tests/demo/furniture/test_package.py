import hashlib
import shutil
import subprocess

import pytest

from mixer_jax.demo.furniture import package
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def programs(monkeypatch, furniture_package):
    """Replaces apt-get and dpkg-deb; returns the commands that were run."""
    run, content = [], b"the package"

    def fake(command, cwd=None, **_):
        run.append([command[0].rpartition("/")[2], *command[1:]])
        if command[1] == "download":
            with open(f"{cwd}/{package.FILE}", "wb") as file:
                file.write(content)
        else:
            shutil.copytree(furniture_package, command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    checksum = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(package, "_CHECKSUM", checksum)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", fake)
    return run


def failing(error):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 100, "", error)

    return run


def test_package_is_fetched_and_unpacked_once(tmp_path, programs):
    folder = tmp_path / "packages"
    names = [one.name for one in package.read(None, folder)]
    assert names == ["First catalog", "Second catalog"]
    apt, dpkg = programs
    assert apt == ["apt-get", "download", "sweethome3d-furniture=1.8-1"]
    assert dpkg[:3] == ["dpkg-deb", "-x", str(folder / package.FILE)]
    package.read(None, folder)
    assert len(programs) == 2
    left = {path.name for path in folder.iterdir()}
    assert left == {package.FILE, f"content-{package._CHECKSUM[:12]}"}


def test_folder_is_read_in_place(tmp_path, furniture_package, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assert len(package.read(furniture_package, tmp_path / "packages")) == 2
    assert not (tmp_path / "packages").exists()


@pytest.mark.parametrize("name", ["apt-get", "dpkg-deb"])
def test_missing_program_is_named(name, tmp_path, programs, monkeypatch):
    find = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda one: None if one == name else find(one)
    )
    with pytest.raises(UserError, match=f"needs {name}, which is not") as found:
        package.read(None, tmp_path / "packages")
    hint = {"apt-get": package._PAGE, "dpkg-deb": "--package"}[name]
    assert hint in str(found.value)


def test_failure_of_a_program_is_reported(tmp_path, programs, monkeypatch):
    monkeypatch.setattr(subprocess, "run", failing("E: No\n such version"))
    with pytest.raises(UserError, match="failed: E: No such version"):
        package.read(None, tmp_path / "packages")
    other = tmp_path / "other.deb"
    other.write_bytes(b"no package")
    with pytest.raises(UserError, match=r"other\.deb cannot be unpacked"):
        package.read(other, tmp_path / "packages")
    assert not list((tmp_path / "packages").iterdir())


def test_other_content_is_rejected(tmp_path, programs, monkeypatch):
    monkeypatch.setattr(package, "_CHECKSUM", "0" * 64)
    with pytest.raises(UserError, match="expected checksum"):
        package.read(None, tmp_path / "packages")
    assert not list((tmp_path / "packages").iterdir())


def test_package_without_catalogs_is_rejected(tmp_path):
    with pytest.raises(UserError, match="There is no package at"):
        package.read(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no furniture catalogs"):
        package.read(tmp_path / "empty", tmp_path)


def test_key_of_two_products_is_rejected(tmp_path, catalog_writer):
    for name in ("A", "B"):
        catalog_writer(
            tmp_path / f"{name}.sh3f", {"x": {"name": "X", "id": "Same#x"}}
        )
    with pytest.raises(UserError, match="two products 'same/x'"):
        package.read(tmp_path, tmp_path)
