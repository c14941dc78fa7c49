"""The page shows all sections, notes missing ones, and loads nothing."""

import functools
import html.parser
import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from mixer_jax.reports import page
from mixer_jax.reports.sheets import Hit, Sheet, Strip
from mixer_jax.runtime.errors import UserError

WAY = {
    "bcubed_f1": 0.84,
    "noise_share": 0.05,
    "categories": 1800,
    "gini": 0.25,
    "sizes": {"2": 30, "3": 4},
}
ROW = {
    "model": "mixer",
    "stage": "stage3",
    "split": "test",
    "gallery": "test",
    "queries": 8,
    "documents": 9,
    "identical_at_1": 0.6875,
    "identical_at_5": 0.9,
    "map": 0.7,
    "mrr": 0.8,
}
LOG = {"loss": ([1, 2], [3.0, 2.0]), "proxy_cosine": ([1, 2], [0.1, 0.2])}
IMAGE = "data:image/webp;base64,AAAA"
STRIP = Strip(
    IMAGE,
    "an <apple>",
    "forward",
    2,
    9,
    (Hit(IMAGE, "a pear", 0.9, False), Hit("", "an apple", 0.8, True)),
)


def full_page():
    return page.render(
        "my run",
        rows=[ROW, ROW | {"model": "linear map", "identical_at_1": 0.5}],
        logs={"stage1": LOG},
        limits={"max_proxy_cosine": 0.5},
        ways={"combined": WAY, "clicks": WAY | {"bcubed_f1": 0.7}},
        sheets=[Sheet("Wrong at rank 1", "1 of 1", (STRIP,))],
        category_samples=[("apples", 4, [IMAGE])],
        attribution="Drawn by:\n\n- `a/`: A, CC-BY-4.0,\n  see there\n",
        simulated=True,
    )


def loads(html):
    """Returns the addresses that a browser would fetch."""
    found = re.findall(r"""(?:src|href|srcset|data)\s*=\s*["']([^"']*)""", html)
    found += re.findall(r"url\(([^)]*)\)", html)
    found += re.findall(r"@import\s+(\S+)", html)
    return [f for f in found if not f.startswith(("data:", "#"))]


def test_full_page_has_all_sections_and_loads_nothing():
    html = full_page()
    assert loads(html) == []
    assert "<script" not in html
    for text in (
        "68.8",
        "<b>68.8</b>",
        "linear map",
        "Loss, stage1",
        "Mean cosine between proxies",
        "<b>84.0</b>",
        "1,800",
        "A, CC-BY-4.0, see there",
        "simulated",
        "apples",
    ):
        assert text in html, text
    assert 'class="missing"' not in html


def test_every_link_has_a_target():
    html = full_page()
    for target in re.findall(r'<a href="#(\w+)"', html):
        assert f'id="{target}"' in html


def test_marks_belong_to_their_documents():
    html = full_page()
    items = re.findall(r'<li class="(right|wrong)">(.*?)</li>', html, re.DOTALL)
    assert [kind for kind, _ in items] == ["wrong", "right"]
    assert "a pear" in items[0][1]
    assert "no image" in items[1][1]


def test_texts_are_escaped():
    html = full_page()
    assert "an &lt;apple&gt;" in html
    assert "<apple>" not in html


def test_page_of_an_empty_run_lists_missing_files():
    html = page.render("my run", sheets_missing="No checkpoint.")
    assert html.count('class="missing"') == 4
    for text in ("metrics.json", "No checkpoint.", "categories.json"):
        assert text in html
    assert "simulated" not in html


def test_incomplete_last_line_of_a_log_is_ignored(tmp_path):
    lines = [{"step": 1, "stage": "a", "loss": 2.0}, {"step": 2, "loss": None}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    series = page.read_log(tmp_path)
    assert set(series) == {"loss"}
    steps, values = series["loss"]
    assert steps == [1, 2]
    assert values[0] == 2.0
    assert values[1] != values[1]
    assert page.read_log(tmp_path / "no") == {}


def test_damaged_lines_of_a_log_are_ignored(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss": 2.0}\n\xff\n3\n'
        b'{"loss": 1}\n{"step": 4, "loss": 5}'
    )
    assert page.read_log(tmp_path) == {"loss": ([1, 4], [2.0, 5])}


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_damaged_simulation_note_raises_an_error(tmp_path, text):
    note = tmp_path / "simulation.json"
    assert not page.is_simulation(note)
    note.write_text('{"simulation": true}')
    assert page.is_simulation(note)
    note.write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"simulation\.json"):
        page.is_simulation(note)


def test_note_in_another_encoding_is_shown(tmp_path):
    (tmp_path / "note.md").write_text("by Ren\xe9", "latin-1")
    assert page.read_note(tmp_path / "note.md").startswith("by Ren")
    assert page.read_note(tmp_path / "no.md") == ""


def test_category_list_of_a_stage_has_no_quality_figures(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text('["a", "b"]')
    assert page.read_ways(tmp_path) == {}
    path.write_text(json.dumps({"combined": WAY, "seconds": 3}))
    assert page.read_ways(tmp_path) == {"combined": WAY}
    path.write_text("{")
    with pytest.raises(UserError, match=r"categories\.json is damaged"):
        page.read_ways(tmp_path)


def test_method_without_categories_is_never_the_best():
    alone = {"bcubed_f1": 0.5, "bcubed_precision": 1.0, "categories": 0}
    ways = {"combined": WAY | {"bcubed_precision": 0.9}, "alone": alone}
    html = page.render("my run", ways=ways)
    assert "<b>90.0</b>" in html
    assert "<b>100.0</b>" not in html


def test_page_is_written_atomically(tmp_path):
    path = page.write(tmp_path / "new" / "index.html", lambda: "é")
    assert path.read_text(encoding="utf-8") == "é"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_only_a_report_is_overwritten(tmp_path):
    path = tmp_path / "index.html"
    for content in ("", "<!DOCTYPE html>", page.render("my run")):
        path.write_text(content)
        page.check_out(path)
    for content in ("sample_id,role", "[]", "<svg>"):
        path.write_text(content)
        with pytest.raises(UserError, match="choose another path with --out"):
            page.check_out(path)


class Reader(html.parser.HTMLParser):
    """The texts, attributes and elements that a browser would see."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.attributes, self.elements = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += (value for _, value in attrs)

    def handle_data(self, data):
        self.texts.append(data.strip())


def page_of(name):
    strip = Strip(IMAGE, name, name, 1, 9, (Hit("", name, 0.9, True),))
    rows = [ROW | {"split": split, "model": name} for split in ("test", name)]
    return page.render(
        name,
        rows=[ROW, *rows],
        logs={name: LOG},
        ways={name: WAY},
        sheets=[Sheet(name, name, (strip,))],
        sheets_model=name,
        category_samples=[(name, 4, [IMAGE])],
    )


@functools.cache
def plain_elements():
    return Reader(page_of("plain")).elements


@hypothesis.given(
    st.sampled_from(
        ["</title><script>alert(1)</script>", "\"'><img src=x>", "&amp; &lt;"]
        + ["{{ 7 * 7 }}", "{% raw %}", "\udce9", "--><!--", "]]>"]
    )
    | st.text(max_size=30)
)
@hypothesis.settings(deadline=None, max_examples=8)
def test_names_are_rendered_as_plain_text(name):
    name = f"a{''.join(filter(str.isprintable, name))}z".replace("_", "")
    made = Reader(page_of(name))
    assert made.elements == plain_elements()
    # Title, heading, model, example, category.
    assert made.texts.count(name) >= 5
    assert {f"query: {name}", name} <= set(made.attributes)


@pytest.mark.parametrize(
    "rows", [[3], [{"model": "a"}], [ROW | {"documents": None}]]
)
def test_malformed_rows_raise_an_error(tmp_path, rows):
    (tmp_path / "metrics.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="not have the expected contents"):
        page.read_rows(tmp_path)
