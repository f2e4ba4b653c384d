"""What the library raises at its boundary: a sentence that says what was given, what was expected and what fixes it.

Names of files and what files hold come from others: `shown` is how they reach a terminal, a page or a sentence.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class AmbientSolveError(ValueError):
    """Bad input, found before the first network call. The command line prints it and exits with code 2.

    It is one line, whatever names are quoted in it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message))


class DoubtfulResult(UserWarning):
    """A result that does not fit what was measured, or rests on something that does not: said, and returned."""


class MisfitWarning(DoubtfulResult):
    """Samples that do not explain the measurement as well as its noise allows, or that explain the noise, too."""


@contextlib.contextmanager
def own_words_for_misfit() -> Iterator[None]:
    """No `MisfitWarning` inside: who enters says in words of its own how well the samples fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisfitWarning)
        yield


class Diverged(AmbientSolveError):
    """A run whose samples became NaN or infinite, at the noise level `sigma`."""

    def __init__(self, message: str, sigma: float) -> None:
        self.sigma = sigma
        super().__init__(message)


class UnknownKnob(AmbientSolveError):
    """A knob that an algorithm or another dataclass does not have.

    Attributes:
        owner: What was asked for it. name: The knob. known: The knobs that there are.
    """

    def __init__(self, owner: str, name: str, known: Iterable[str]) -> None:
        self.owner, self.name, self.known = owner, name, tuple(known)
        super().__init__(f"{owner} has no knob {name!r}. {suggestion(name, self.known)}")


class Part(NamedTuple):
    """An array, or another part, of a file."""

    name: str
    path: str | Path

    def __str__(self) -> str:
        return f"{self.name} of {self.path}"


class UnreadableFile(AmbientSolveError):
    """A file that cannot be taken as it is.

    Attributes:
        path: The file, or the `Part` of it. reason: What is said of it; the sentence goes on with that.
        before: How the sentence begins, where not with the file.
    """

    def __init__(self, path: str | Path | Part, reason: str, before: str = "") -> None:
        self.path, self.reason, self.before = path, reason, before
        super().__init__(f"{before}{path}{'' if reason[:1] in ':;.,' else ' '}{reason}")

    @property
    def fields(self) -> dict[str, Any]:
        """What it was made of; `type(error)(**error.fields)` is the same error."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def called_by_name(self) -> UnreadableFile:
        """The same error of the same file, without the folder that it lies in."""
        path = self.path
        path = Part(path.name, Path(path.path).name) if isinstance(path, Part) else Path(str(path)).name
        return type(self)(**{**self.fields, "path": path})


class ShortVideo(UnreadableFile):
    """A video that breaks off, or ends before the frames that were asked for.

    Attributes:
        path: The file. frames: How many of its frames can be read. reason: As of every file that cannot be taken.
    """

    def __init__(self, path: str | Path, frames: int, reason: str) -> None:
        self.frames = frames
        super().__init__(path, reason)


class AmbiguousAxes(UnreadableFile):
    """An array whose `shape` does not tell what its axes are.

    Attributes:
        choices: What they may be, such as "chw", and what that would mean; the meanings may be empty.
        problem, rest: The sentence, without the part between them that says how to answer.
    """

    def __init__(self, path: str | Path | Part, shape: Iterable[int], choices: Mapping[str, str]) -> None:
        self.shape, self.choices = tuple(shape), dict(choices)
        told = any(self.choices.values())
        unclear = "" if told else ", and which are slices, coils, height and width is not plain"
        self.problem = f"{path} has the axes {self.shape}{unclear}"
        self.rest = "." if told else ". A three-dimensional scan is transformed along its third axis first."
        ways = " or ".join(f'axes="{axes}"{f" ({what})" if what else ""}' for axes, what in self.choices.items())
        how = f": say {ways}" if told else f"; say so, as {ways}"
        super().__init__(path, f"has the axes {self.shape}{unclear}{how}{self.rest}")


class WrongAxes(UnreadableFile):
    """`axes` that do not name the axes of an array of that `shape`."""

    def __init__(self, path: str | Path | Part, axes: str, shape: Iterable[int]) -> None:
        self.axes, self.shape = axes, tuple(shape)
        super().__init__(path, '; give such as "chw".', f"axes={axes!r} does not name the axes {self.shape} of ")


class UnnamedArray(UnreadableFile):
    """A file that `held` several arrays, none of which is called `wanted`; `problem` is all but how to name one."""

    def __init__(self, path: str | Path, wanted: str, held: str) -> None:
        self.wanted, self.held = wanted, held
        self.problem = f"{path} has no {wanted!r}; it holds {held or 'nothing'}"
        super().__init__(path, f"has no {wanted!r}; it holds {held or 'nothing'}: name one as {path}:KEY.")


def shown(text: object, *, lines: bool = False) -> str:
    r"""`text` as it may be printed: on one line, without signs that command a terminal or turn the reading direction.

    Such signs are spelt out, an escape as `\x1b`, as are the bytes of a file name that are no text.

    Args:
        text: Anything; its `str` is printed.
        lines: Whether line feeds and tabs may stay, as in a model card.

    Returns:
        The text.
    """
    kept = "\n\t" if lines else ""
    signs = (c if c.isprintable() or c in kept or unicodedata.category(c) == "Zs" else _spelt(c) for c in str(text))
    return "".join(signs)


def _spelt(sign: str) -> str:
    return ascii(sign)[1:-1]


def reason(error: BaseException, *paths: str | Path, longest: int = 160) -> str:
    """Why a file could not be read, in a few words.

    Args:
        error: What was raised; an `OSError` quotes the file it was about, which is left out.
        paths: Paths that other errors quote, which are shortened to their names.
        longest: Most characters.

    Returns:
        The reason, without a full stop.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(shown(error, lines=True).split()).rstrip(".")
    words = words if len(words) <= longest else f"{words[:longest]}..."
    for path in paths:
        words = words.replace(shown(path), shown(Path(path).name))
    return words or type(error).__name__


def first_line(error: BaseException, longest: int | None = None) -> str:
    """The first line of what another library says of an error, or the name of its type where it says nothing.

    Args:
        error: Of another library.
        longest: Most characters; None for all.

    Returns:
        The line.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:longest] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """What another library says of an error, on one line."""
    return " ".join(str(error).split())


def without_folder(error: Exception) -> Exception:
    """`error`, which calls its file by name alone: on a page, the folder of a file belongs to the server."""
    return error.called_by_name() if isinstance(error, UnreadableFile) else error


def on_a_page(error: Exception) -> str:
    """The words of an error for a page, which call a file by its name and not by its folder."""
    if isinstance(error, OSError):
        name = "" if error.filename is None else f"{shown(Path(str(error.filename)).name)}: "
        return f"{name}{reason(error)}."
    return str(without_folder(error))


def suggestion(word: str, known: Iterable[str]) -> str:
    """A sentence with the known word that is close to `word`, if one is, then one with all known words.

    Args:
        word: What was given.
        known: The words that would do.

    Returns:
        One or two sentences.
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
