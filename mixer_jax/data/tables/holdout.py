"""Held-out categories: a tenth of them, chosen by a hash of the ID."""

import hashlib


def digest(*words: str) -> int:
    """Returns a 160-bit hash of the words, equal across runs."""
    return int(hashlib.sha1("\0".join(words).encode()).hexdigest(), 16)


def is_test(category_id: str) -> bool:
    """Returns whether a category is in the tenth held out for testing."""
    return digest(category_id) % 10 == 0
