"""What a user may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """A question that names what is most like ``word``, after a space; "" if nothing is."""
    close = difflib.get_close_matches(word, list(known), n=most)
    return f" Did you mean {' or '.join(close)}?" if close else ""
