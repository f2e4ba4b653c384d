"""The contact sheet of `ambient-solve corrupt`: some pictures of each kind of damage, before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.errors import shown

if TYPE_CHECKING:
    from torch import Tensor

    from ambient_solve.data.corruption import Corruption
    from ambient_solve.data.damages import Damage
    from ambient_solve.data.sample import Sample

SHEET = "contact-sheet.png"
"""Name of the file, beside the manifest."""
PAIRS = 3
"""Pictures of each kind of damage."""
SIDE = 160
"""Side of each picture on the sheet, in pixels."""


class DamageSheet:
    """Keeps the clean pictures that are to be shown while they pass by, and then draws them beside the damaged ones.

    Args:
        corruption: The plan of damage.
        total: Number of pictures.
    """

    def __init__(self, corruption: Corruption, total: int) -> None:
        plan = corruption.plan(total)
        found = {damage: [i for i, other in enumerate(plan) if other is damage] for damage in corruption.damages}
        self.kinds: dict[Damage, list[int]] = {damage: own for damage, own in found.items() if own}
        self._clean: dict[int, Tensor] = {}

    def watch(self, pictures: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """`pictures` as they are; those to be shown are kept."""
        wanted = {i for indices in self.kinds.values() for i in indices[:PAIRS]}
        for i, (name, picture) in enumerate(pictures):
            if i in wanted:
                self._clean[i] = picture
            yield name, picture

    def save(self, folder: Path) -> Path | None:
        """Write the sheet into a damaged folder.

        Args:
            folder: With its manifest.

        Returns:
            The file; None where no picture was damaged.
        """
        from ambient_solve.data.corruption import read_corrupted
        from ambient_solve.figures.sheet import Row, contact_sheet, picture_tile

        if not self.kinds:
            return None
        damaged = {i: sample for i, sample in enumerate(read_corrupted(folder)) if i in self._clean}
        columns = max(min(len(indices), PAIRS) for indices in self.kinds.values())
        blank = picture_tile(next(iter(self._clean.values()))[:1].float() * 0 + 1)
        rows = []
        for damage, indices in self.kinds.items():
            tiles = []
            for i in indices[:columns]:
                before, after = picture_tile(self._clean[i].float() / 255), _view(damaged[i])
                tiles += [before, picture_tile(after, _missing(damaged[i]))]
            settings = ", ".join(f"{k}={v}" for k, v in damage.parameters.items())
            note = f"{len(indices)} picture{'s' * (len(indices) > 1)}{f': {settings}' if settings else ''}"
            rows.append(Row(damage.name, note, tiles + [blank] * (2 * columns - len(tiles))))
        path = folder / SHEET
        contact_sheet(f"Damage in {shown(folder.name)}", ["clean", "damaged"] * columns, rows, SIDE).save(path)
        return path


def _view(sample: Sample) -> Tensor:
    """A sample as a picture (1 or 3, H, W) in [0, 1]; of two channels the magnitude."""
    z = sample.z.float()
    return z.square().sum(0, keepdim=True).sqrt() if len(z) == 2 else (z + 1) / 2


def _missing(sample: Sample) -> str:
    share = 0.0 if sample.mask is None else 1 - float(sample.mask.float().mean())
    return f"{100 * share:.0f} % missing" if share else ""
