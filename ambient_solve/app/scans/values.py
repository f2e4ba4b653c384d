"""`ScanControls`: what the tab for scans says at the moment of an event, by name and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ambient_solve.app.controls import RunControls
from ambient_solve.app.scans.panels import Look
from ambient_solve.app.scans.session import ScanSession


@dataclass(frozen=True, kw_only=True)
class ScanControls(RunControls):
    """The values of the controls of the tab. What an event does not read stands at its default.

    Attributes, beside those of `RunControls`:
        session: Scan and results of this browser session; None before the first event that needs them.
        files: Paths of what was just put in. array, axes: How it is read. mask: Path of the sampling mask.
        kind: Kind of mask that undersamples a full scan. acceleration: R, 1 or more. acs: Its calibration lines.
        coils: Virtual coils that are kept, 0 for those that hold more than noise.
        method: "prior" or one of `mri.CLASSICAL`. prior: Name or folder of the prior, "" or None for none.
        samples: How many are drawn. every: Reconstruct all slices, not `index` alone.
        window, level: In percent of white. zoom: 1 or more, round the pixel to read.
        flip: Show it upside down. coil: The coil map to show, 0 for all.
    """

    session: ScanSession | None = None
    files: list[str] | None = None
    array: str = ""
    axes: str = ""
    mask: str | None = None
    kind: str = "random"
    acceleration: float = 1.0
    acs: int = 16
    coils: int = 0
    method: str = "l1-wavelet"
    prior: str | None = None
    samples: int = 4
    every: bool = False
    index: int | None = 0
    window: float = 100.0
    level: float = 50.0
    zoom: float = 1.0
    flip: bool = False
    coil: int | None = 0

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> ScanControls:
        """The controls whose parts of the page have these values.

        Args:
            values: By the name of the part.

        Raises:
            TypeError: a part is no control.
        """
        return cls(**values)

    @property
    def slice(self) -> int:
        """Index of the slice that is looked at."""
        return int(self.index or 0)

    @property
    def look(self) -> Look:
        """How a slice is to be looked at."""
        return Look(
            window=float(self.window) / 100,
            level=float(self.level) / 100,
            zoom=float(self.zoom),
            row=int(self.row or 0),
            column=int(self.column or 0),
            flip=bool(self.flip),
            coil=int(self.coil or 0),
        )
