"""What the library raises at its boundary: a sentence that says what was given, what was expected and what fixes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AmbientSolveError(ValueError):
    """Bad input, found before the first network call. The command line prints it and exits with code 2."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'mmps'? ` when `word` is close to a known one, then the list of all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
