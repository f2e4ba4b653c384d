"""`ScanControls`: what the tab for scans says at the moment of an event, by name and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ambient_solve.app.rules import Rules
from ambient_solve.app.scans.panels import Look
from ambient_solve.app.scans.session import ScanSession


@dataclass(frozen=True)
class ScanControls:
    """The values of the controls of the tab. What an event does not read stands at its default.

    Attributes:
        session: Scan and results of this browser session; None before the first event that needs them.
        files: Paths of what was just put in. array, axes: How it is read. mask: Path of the sampling mask.
        kind: Kind of mask that undersamples a full scan. acceleration: R, 1 or more. acs: Its calibration lines.
        coils: Virtual coils that are kept, 0 for those that hold more than noise.
        method: "prior" or one of `mri.CLASSICAL`. prior: Name or folder of the prior, "" or None for none.
        device: Where it works. rules: What visitors may choose.
        preset: Name of the preset that is lit, or None. algorithm: Of the solver. knobs: Those of the algorithm.
        samples: How many are drawn. seed: Decides them. same_seed: Take this seed, in place of a new one.
        every: Reconstruct all slices, not `index` alone.
        window, level: In percent of white. zoom: 1 or more. row, column: Pixel to read, and middle of the zoom.
        flip: Show it upside down. coil: The coil map to show, 0 for all.
        visitor: Whose event it is, known to gradio; None for nobody's.
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
    device: str = "auto"
    rules: Rules = field(default_factory=Rules)
    preset: str | None = None
    algorithm: str = "auto"
    knobs: Mapping[str, Any] | None = None
    samples: int = 4
    seed: int = 0
    same_seed: bool = True
    every: bool = False
    index: int | None = 0
    window: float = 100.0
    level: float = 50.0
    zoom: float = 1.0
    row: int | None = None
    column: int | None = None
    flip: bool = False
    coil: int | None = 0
    visitor: str | None = None

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
