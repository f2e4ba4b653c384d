"""The pictures of a folder, and what of it looks like one and is left out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ambient_solve.errors import shown
from ambient_solve.reading.pictures import OTHERS, SUFFIXES

FORK = "._"
"""How the names of files begin in which macOS keeps what other systems cannot store of a file."""
MOST_SHOWN = 5
"""Files that a sentence names."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes:
        pictures: Files that are pictures by their names, sorted.
        left_out: Files and folders that one might take for pictures, each with the reason why they are none.
    """

    pictures: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()

    @property
    def words(self) -> str:
        """What was left out, in a sentence; empty where nothing was."""
        return left_out_words([f"{path.name} ({why})" for path, why in self.left_out])


def left_out_words(files: list[str]) -> str:
    """A sentence that names what was left out.

    Args:
        files: Each with its reason.

    Returns:
        The sentence; empty where there is nothing to say.
    """
    more = f" and {len(files) - MOST_SHOWN} more" if len(files) > MOST_SHOWN else ""
    named = ", ".join(file.rstrip(".") for file in files[:MOST_SHOWN])
    return shown(f"Left out: {named}{more}.") if files else ""


def list_pictures(folder: str | Path, without: Path | None = None) -> Listing:
    """List the pictures of a folder, searched recursively, links to files and to folders included.

    Each folder is searched once, whatever links lead to it.

    Args:
        folder: The folder.
        without: A folder inside that is not searched, such as that of the results.

    Returns:
        The pictures, and what was left out.
    """
    found: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    skipped = None if without is None else os.path.realpath(without)
    links, seen = [Path(folder)], set()
    while links:
        # Folders before links to them: a file is called by the name that needs no link.
        links = sorted(_search(links, seen, skipped, found, left_out))
    return Listing(tuple(sorted(found)), tuple(sorted(left_out)))


def _search(
    folders: list[Path], seen: set[str], skipped: str | None, found: list[Path], left_out: list[tuple[Path, str]]
) -> list[Path]:
    """Add what lies in `folders`, and the folders in them; returns the links to folders that were met."""
    links, stack = [], list(reversed(folders))
    while stack:
        folder = stack.pop()
        real = os.path.realpath(folder)
        if real in seen or (skipped is not None and Path(real).is_relative_to(skipped)):
            continue
        seen.add(real)
        try:
            entries = sorted(folder.iterdir(), reverse=True)
        except OSError:
            left_out.append((folder, "the folder cannot be opened"))
            continue
        for path in entries:
            if path.is_dir():
                (links if path.is_symlink() else stack).append(path)
            else:
                why = _why_not(path)
                if why is None:
                    found.append(path)
                elif why:
                    left_out.append((path, why))
    return links


def _why_not(path: Path) -> str | None:
    """Why a file is no picture: None where it is one by its name, empty where nobody would take it for one."""
    suffix = path.suffix.lower()
    if suffix in OTHERS and path.is_file():
        return OTHERS[suffix]
    if suffix not in SUFFIXES:
        return ""
    if path.name.startswith(FORK):
        return "macOS keeps in it what belongs to another file"
    return None if path.is_file() else "a link to nothing" if path.is_symlink() else "no file"
