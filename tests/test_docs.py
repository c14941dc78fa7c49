"""The documentation builds without warnings, and its examples run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# launch/test.sh installs Sphinx here; no command needs it.
SPHINX = [str(path) for path in pathlib.Path(sys.prefix).glob("furo==*")]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def _run(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *SPHINX])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_docs_build_without_warnings(tmp_path):
    if not SPHINX:
        pytest.skip("Sphinx is not installed.")
    _run("-m", "sphinx", "-q", "-W", "--keep-going", "docs", tmp_path / "html")
    config = (tmp_path / "html" / "config.html").read_text()
    for key in ("model.image.pretrained", "head.neighbors", "steps"):
        assert f">{key}<" in config
    page = (tmp_path / "html" / "python.html").read_text()
    assert "embed_documents" in page
    assert "from_encoders" in page


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_python_examples_run(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for number, block in enumerate(blocks):
        script = tmp_path / f"{number}.py"
        script.write_text(block)
        _run(script)


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    linked = set(re.findall(r"\(docs/(\w+)\.md\)", text))
    assert linked == {page.stem for page in PAGES} - {"index"}


def test_links_between_files_are_valid():
    for page in (*PAGES, ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), (page, target)
