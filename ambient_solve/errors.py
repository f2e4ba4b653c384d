"""What the library raises at its boundary: a sentence that says what was given, what was expected and what fixes it.

Names of files and what files hold come from others: `shown` is how they reach a terminal, a page or a sentence.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path


class AmbientSolveError(ValueError):
    """Bad input, found before the first network call. The command line prints it and exits with code 2.

    It is one line, whatever names are quoted in it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message))


def shown(text: object, *, lines: bool = False) -> str:
    r"""`text` as it may be printed: on one line, without signs that command a terminal or turn the reading direction.

    Such signs are spelt out, an escape as `\x1b`, as are the bytes of a file name that are no text.

    Args:
        lines: Whether line feeds and tabs may stay, as in a model card.
    """
    kept = "\n\t" if lines else ""
    signs = (c if c.isprintable() or c in kept or unicodedata.category(c) == "Zs" else _spelt(c) for c in str(text))
    return "".join(signs)


def _spelt(sign: str) -> str:
    return ascii(sign)[1:-1]


def without_folders(words: object, *paths: str | Path) -> str:
    """`words` with each of `paths` reduced to its name: on a page, the folder of a file belongs to the server."""
    told = shown(words)
    for path in sorted((str(p) for p in paths), key=len, reverse=True):
        told = told.replace(shown(path), shown(Path(path).name))
    return told


def reason(error: BaseException, longest: int = 160) -> str:
    """Why a file could not be read, in a few words and without a path: an `OSError` quotes the file it was about."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(shown(error, lines=True).split()).rstrip(".")
    words = words if len(words) <= longest else f"{words[:longest]}..."
    return words or type(error).__name__


def on_a_page(error: Exception) -> str:
    """The words of an error for a page: those of the system quote a file with its folder, of which the name is kept."""
    if isinstance(error, OSError):
        name = "" if error.filename is None else f"{shown(Path(str(error.filename)).name)}: "
        return f"{name}{reason(error)}."
    return str(error)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'mmps'? ` when `word` is close to a known one, then the list of all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
