import pathlib
import re
import shlex

import pytest

from mixer_jax.data import read, readers

PAGES = pathlib.Path(__file__).parents[3] / "docs" / "datasets"


@pytest.mark.parametrize("name", readers.FORMATS)
def test_each_format_has_a_page_with_a_valid_command(name):
    page = (PAGES / f"{name}.md").read_text("utf-8")
    for heading in (
        "Where to get it",
        "License",
        "Layout.",
        "Command.",
        "Mapping.",
        "Split and roles.",
        "Pitfalls.",
    ):
        assert f"**{heading}" in page, heading
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    words = shlex.split(block)
    assert words[:4] == ["python", "-m", "mixer_jax.data.read", name]
    options = read.make_parser(name).parse_args(words[4:])
    assert str(options.root) == "DIR"


def test_the_table_lists_all_pages():
    listed = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\)",
        (PAGES / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert {a for a, _ in listed} == set(readers.FORMATS)
    assert all(a == b for a, b in listed)
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages >= set(readers.FORMATS)
    drawn = pages - set(readers.FORMATS)
    for name in drawn:  # sets that have a command of their own
        text = (PAGES / f"{name}.md").read_text("utf-8")
        assert re.search(r"python -m mixer_jax\.demo\.\w+", text), name
        assert f"({name}.md)" in (PAGES / "README.md").read_text("utf-8")
