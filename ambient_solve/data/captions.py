"""What pictures show, in words: a caption for each picture, or a name for each class of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.errors import AmbientSolveError
from ambient_solve.reading.numpy_files import open_numpy
from ambient_solve.reading.raw import LIMIT, load

MOST = 1000
"""Characters of the longest caption."""
LABELS = "label"
"""Array of a pack with the class of each picture."""


def checked_caption(given: Any) -> str:
    """A caption, which is not trusted.

    Args:
        given: What a file holds.

    Returns:
        The caption, on one line.

    Raises:
        AmbientSolveError: it is none, too long, or holds signs that are no text.
    """
    text = " ".join(given.split()) if isinstance(given, str) else None
    if text is None or len(text) > MOST or not text.isprintable():
        raise AmbientSolveError(
            f"caption = {repr(given)[:60]} is none: at most {MOST} printable characters were expected."
        )
    return text


def read_captions(path: str | Path, data: str, names: Sequence[str], template: str = "{}") -> list[str]:
    """The caption of each picture of a set.

    Args:
        path: A text file with a line for each picture, in their order; or, of a pack with an array `label`, a line for
            each class, in the order of the sorted labels.
        data: The set, as `data.images.read_images` takes it.
        names: Of its pictures, as they were read.
        template: What a line becomes, with {} in its place, such as "a photo of a {}".

    Returns:
        One for each name.

    Raises:
        AmbientSolveError: the file cannot be read, or has another number of lines.
    """
    if template.count("{}") != 1 or "{" in template.replace("{}", ""):
        raise AmbientSolveError(
            f'template={template[:60]!r} was given; words with one {{}}, as "a {{}}", were expected.'
        )
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise AmbientSolveError(f"The captions {path} cannot be read ({type(error).__name__}).") from None
    labels = _labels(Path(data)) if data.endswith(".npz") else None
    classes = [] if labels is None else sorted(set(labels))
    if labels is not None and len(lines) == len(classes):
        name_of = dict(zip(classes, lines, strict=True))
        lines = [name_of[labels[int(name.rpartition("/")[2])]] for name in names]
    elif len(lines) != len(names):
        other = f" or {len(classes)}, one for each class," if classes else ""
        raise AmbientSolveError(
            f"{path} has {len(lines)} lines; {len(names)}, one for each picture,{other} were expected."
        )
    return [checked_caption(template.replace("{}", line.strip())) for line in lines]


def _labels(path: Path) -> list[str] | None:
    """The class of each picture of a pack; None where it says nothing."""
    with open_numpy(path) as pack:
        if LABELS not in pack:
            return None
        found = np.atleast_1d(load(pack[LABELS], f"{path}: {LABELS}", LIMIT, "iuSU"))
    return [str(label) for label in found.tolist()]
