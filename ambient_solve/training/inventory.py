"""What a run was trained on, picture by picture: a run goes on with the data that it began with, or says what changed.

Pictures are known by a hash of what is in them, as read: copying, renaming or touching files changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ambient_solve.data.corruption import fingerprint
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.resume import digest
from ambient_solve.saving import replace_text
from ambient_solve.training.checkpoints import Checkpoints

FILE = "data.json"
"""File of a run's folder that lists what it is trained on."""
NAMED = 3
"""Pictures of a kind of change that are named, at most."""


@dataclass(frozen=True)
class Inventory:
    """One source as it was read.

    Attributes:
        path: What the settings call it.
        pictures: (name, hash) of each picture, in the order in which they are used; those held out last.
        held_out: How many of them are held out.
        samples: Hash of what is trained on, damage included.
    """

    path: str
    pictures: Sequence[tuple[str, str]]
    held_out: int
    samples: str

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        learned = len(self.pictures) - self.held_out
        return {
            "path": self.path,
            "pictures": [list(row) for row in self.pictures[:learned]],
            "held out": [list(row) for row in self.pictures[learned:]],
            "samples": self.samples,
        }


def content(picture: Tensor | Sample) -> str:
    """Hash of what is in a picture (C, H, W), or in a sample, its damage included; not of its name."""
    if isinstance(picture, Sample):
        return fingerprint([picture])
    return digest(repr((picture.dtype, tuple(picture.shape))).encode(), picture.contiguous().numpy().tobytes())


def refuse_other_data(out: Path, inventories: Sequence[Inventory], begun: str | None = None) -> None:
    """Refuse to go on with a run whose data are no longer what they were.

    Args:
        out: Folder of the run.
        inventories: Its sources, as they are read now.
        begun: What was made of the data, empty for nothing yet; by default the latest checkpoint.

    Raises:
        AmbientSolveError: something was made of others.
    """
    begun = next((c.name for c in Checkpoints(out).all()[::-1]), "") if begun is None else begun
    if not begun or not (out / FILE).is_file():
        return
    before = json.loads((out / FILE).read_text())
    changes = [
        f"in {shown(now.path)} {about}"
        for old, now in zip(before, inventories, strict=True)
        if (about := _changes(old, now.record))
    ]
    if changes:
        raise AmbientSolveError(
            f"The data of {out} have changed since {begun}: {'; '.join(changes)}. Put them back as they "
            "were, or train on the new ones in another --out (--init starts it from a prior that this run has written)."
        )


def remember_data(out: Path, inventories: Sequence[Inventory], main: bool) -> None:
    """Keep in the folder of a run what it is trained on.

    Args:
        out: The folder.
        inventories: Its sources.
        main: Whether this is the main process, which writes.
    """
    if main:
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / FILE, json.dumps([i.record for i in inventories], indent=0) + "\n")


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What is other in a source, in words; empty where nothing is."""
    old, new = ([row for key in ("pictures", "held out") for row in record[key]] for record in (before, now))
    hashes = [[key for _, key in rows] for rows in (old, new)]
    if hashes[0] == hashes[1] and len(before["pictures"]) == len(now["pictures"]):
        same = before["samples"] == now["samples"]
        return "" if same else "the pictures are the same, but their damage or the levels they are used at are not"
    was, is_ = ({name: key for name, key in rows} for rows in (old, new))
    kinds = {
        "gone": [name for name in was if name not in is_],
        "new": [name for name in is_ if name not in was],
        "changed": [name for name in is_ if name in was and is_[name] != was[name]],
    }
    found = [
        f"{len(names)} {'picture is' if len(names) == 1 else 'pictures are'} {kind} ({_named(names)})"
        for kind, names in kinds.items()
        if names
    ]
    if not found and len(before["held out"]) != len(now["held out"]):
        found = ["other pictures are held out"]
    return ", ".join(found) or "the pictures are in another order"


def _named(names: Sequence[str]) -> str:
    more = f", ... {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(shown, names[:NAMED])) + more
