"""The HTML of the search page."""

import base64
import hashlib
import html
import json
import re

import pytest
from starlette.testclient import TestClient

from mixer_jax.service import server
from mixer_jax.service.http.settings import DEFAULTS
from mixer_jax.service.page import rendering

SETTINGS = DEFAULTS._replace(max_megabytes=0.5)


@pytest.fixture
def response(shared):
    with TestClient(server.make_app(shared, SETTINGS)) as client:
        return client.get("/")


def test_the_policy_allows_the_parts_of_the_page_and_nothing_else(response):
    policy = dict(
        part.split(" ", 1)
        for part in response.headers["content-security-policy"].split("; ")
    )
    found = {}
    for name, attributes, text in re.findall(
        r"<(script|style)([^>]*)>(.*?)</\1>", response.text, re.DOTALL
    ):
        if "application/json" in attributes:  # data, which is not executed
            continue
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest())
        found.setdefault(name, []).append(f"'sha256-{digest.decode()}'")
    assert policy["script-src"].split() == found["script"]
    assert policy["style-src"].split() == found["style"]
    assert len(found["script"]) == len(rendering.SCRIPTS)
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]


def test_the_page_has_no_inline_handlers_or_styles(response):
    markup = re.sub(
        r"<(script|style)[^>]*>.*?</\1>", "", response.text, flags=re.DOTALL
    )
    assert not re.findall(r"<[^>]+\s(?:on\w+|style)=", markup)


def test_the_header_names_the_step_of_a_trained_model(shared, monkeypatch):
    page = rendering.render(shared.current, SETTINGS)
    assert "<span>12 items</span>" in page
    assert "model of step 4<" in page
    monkeypatch.setattr(type(shared.current.index.model), "step", 0)
    assert "model of step" not in rendering.render(shared.current, SETTINGS)


def test_the_options_tell_what_the_index_declares(response, shared):
    (text,) = re.findall(r'id="options">(.*?)</script>', response.text)
    options = json.loads(text)
    assert options["fields"] == {
        "group": "text",
        "category": "text",
        "price": "number",
    }
    assert (options["count"], options["limit"]) == (12, 500_000)
    assert options["records"] is False
    assert "up to\n            0.5 MB" in html.unescape(response.text)


def test_models_that_ignore_texts_get_no_field_for_words(shared, monkeypatch):
    with shared.use() as generation:
        assert 'id="words"' in rendering.render(generation, SETTINGS)
        monkeypatch.setattr(generation.index.model, "ignores_text", "no text")
        assert 'id="words"' not in rendering.render(generation, SETTINGS)
