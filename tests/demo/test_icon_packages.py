import io
import json
import stat
import tarfile

import pytest

from mixer_jax.demo import icon_packages
from mixer_jax.runtime.errors import UserError

LUCIDE = "lucide-static@1.62.0"


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A fake npm that "fetches" one file and records its calls."""
    log = tmp_path / "calls"
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()

    def install(body):
        script.write_text(f"#!/bin/sh\necho $2 >> {log}\n{body}\n")
        script.chmod(stat.S_IRWXU)

    install("printf content > lucide-static-1.62.0.tgz")
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    right = tmp_path / "right"
    right.write_text("content")
    checksum = icon_packages._checksum(right)
    monkeypatch.setitem(icon_packages._CHECKSUMS, LUCIDE, checksum)
    install.calls = lambda: log.read_text().split() if log.exists() else []
    return install


def test_package_is_fetched_once(npm, tmp_path):
    folder = tmp_path / "new" / "packages"
    path = icon_packages.fetch(LUCIDE, folder)
    assert path == folder / "lucide-static-1.62.0.tgz"
    assert path.read_text() == "content"
    assert icon_packages.fetch(LUCIDE, folder) == path
    assert npm.calls() == [LUCIDE]
    assert list(folder.iterdir()) == [path]


def test_damaged_package_is_fetched_again(npm, tmp_path):
    path = icon_packages.fetch(LUCIDE, tmp_path)
    path.write_text("conte")
    assert icon_packages.fetch(LUCIDE, tmp_path).read_text() == "content"
    assert len(npm.calls()) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo no such host >&2; exit 1", "no such host"),
        ("true", "no file"),
        (
            "printf other > lucide-static-1.62.0.tgz",
            "not have the expected checksum",
        ),
    ],
)
def test_failed_fetch_gives_reason_and_leaves_no_files(
    npm, tmp_path, body, message
):
    npm(body)
    folder = tmp_path / "packages"
    with pytest.raises(UserError, match=f"npm pack lucide.*{message}"):
        icon_packages.fetch(LUCIDE, folder)
    assert not list(folder.iterdir())


def test_missing_npm_error_suggests_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(icon_packages.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"npm is not .*Node\.js.*json.*\.tgz\."
    ):
        icon_packages.fetch(icon_packages.ICONIFY, tmp_path)
    with pytest.raises(
        UserError, match=r"npm is not .*static.*tgz, .*--no-tags"
    ):
        icon_packages.fetch(LUCIDE, tmp_path)


def test_tarball_names_match_npm():
    assert icon_packages._file_name("@a/b@1.0") == "a-b-1.0"
    assert icon_packages._file_name("c-d@2.0") == "c-d-2.0"


def test_tarball_and_folder_yield_the_same_sets(icon_package, tmp_path):
    sets = list(icon_packages.read_sets(icon_package))
    assert [one.prefix for one in sets] == [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "ic",
        "mdi",
    ]
    alpha = sets[0]
    assert alpha.suffixes == ("", "outline")
    assert alpha.aliases["house"] == {"parent": "home"}
    assert alpha.categories["Shapes"] == ["star"]
    assert alpha.box == {"left": 0, "top": 0, "width": 24, "height": 24}
    assert sets[2].prefixes == ()
    with tarfile.open(icon_package) as archive:
        archive.extractall(tmp_path / "open", filter="data")
    again = icon_packages.read_sets(tmp_path / "open" / "package")
    assert sorted(again) == sorted(sets)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.95])
def test_truncated_tarball_is_named(icon_package, share):
    content = icon_package.read_bytes()
    icon_package.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"iconify-json\.tgz is damaged"):
        list(icon_packages.read_sets(icon_package))


def test_invalid_package_is_named(icon_package, tmp_path):
    with pytest.raises(UserError, match=r"no package at .*none\.tgz"):
        list(icon_packages.read_sets(tmp_path / "none.tgz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is not an @iconify/json"):
        list(icon_packages.read_sets(tmp_path / "empty"))
    icon_package.write_bytes(b"<html>")
    with pytest.raises(UserError, match="damaged or not an npm package"):
        list(icon_packages.read_sets(icon_package))


def test_missing_set_is_named(icon_package, tmp_path):
    with tarfile.open(icon_package) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "package/json/gamma.json").unlink()
    with pytest.raises(UserError, match=r"1 of its sets .*json/gamma\.json"):
        list(icon_packages.read_sets(tmp_path / "package"))


@pytest.mark.parametrize("key", ["prefix", "icons", "info", "body", "name"])
def test_set_with_invalid_format_is_named(pack_icons, icon_sets, tmp_path, key):
    prefix = icon_sets[1]["prefix"]
    path = tmp_path / "odd.tgz"
    broken = dict(icon_sets[1])
    if key == "body":
        broken["icons"] = {"home": {"width": 3}}
    elif key == "name":
        broken["icons"] = {"../name": {"body": ""}}
    else:
        del broken[key]
    _tar(
        path,
        {
            "collections.json": json.dumps({prefix: {}}),
            "json/beta.json": json.dumps(broken),
        },
    )
    with pytest.raises(UserError, match=rf"json/beta\.json is not an .*{key}"):
        list(icon_packages.read_sets(path))
    _tar(path, {"json/beta.json": "{"})
    with pytest.raises(UserError, match=r"json/beta\.json is not valid JSON"):
        list(icon_packages.read_sets(path))


def test_tags_are_read_from_each_package(tmp_path, monkeypatch):
    terms = {"house": {"search": {"terms": ["home"]}}}
    module = (
        'const n = [\n  {\n    name: "house",\n    categories: [e.MAP],\n'
        '    tags: [\n      "*new*",\n      "home page",\n      "hut"\n    ],\n'
        '  },\n  {\n    name: "x-mark",\n    tags: []\n  }\n];'
    )
    contents = {
        "lucide-static": {"tags.json": json.dumps({"house": ["living"]})},
        "@tabler/icons": {"icons.json": '{"home": {"tags": ["house", 24]}}'},
        "@phosphor-icons/core": {"dist/index.mjs": module},
        "@fortawesome/fontawesome-free": {
            "metadata/icon-families.json": json.dumps(terms)
        },
    }

    def fetch(spec, folder):
        path = folder / f"{icon_packages._file_name(spec)}.tgz"
        _tar(path, contents[spec.rpartition("@")[0]])
        return path

    monkeypatch.setattr(icon_packages, "fetch", fetch)
    tags = icon_packages.read_tags(tmp_path)
    assert tags["lucide"] == {"house": ["living"]}
    assert tags["tabler"] == {"home": ["house", "24"]}
    assert tags["ph"] == {"house": ["home page", "hut"], "x-mark": []}
    assert tags["fa7-solid"] == tags["fa7-brands"] == {"house": ["home"]}
    contents["lucide-static"] = {"readme.json": "{}"}
    with pytest.raises(UserError, match=r"lucide.* has no file tags\.json"):
        icon_packages.read_tags(tmp_path)


def _tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
