"""The scan of one browser session, and the folder that goes with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ambient_solve.app.folders import new_folder
from ambient_solve.app.scans import example

EXAMPLE_COMMAND = "# python -m ambient_solve.app.scans.example, in a clone, makes the example again."
"""What stands for a command line while the example is shown."""


@dataclass
class ScanSession:
    """The scan of one browser session; its files and what is shown of each slice lie in a folder that goes with it.

    Attributes:
        folder: Holds all its files.
        path: The scan that was put in, None for the example.
        slices: Number of its slices.
        stopped: The visitor has asked the run to end.
        share: How far the run is, 0 to 1.
        kept: The folder inside `folder` in which the scan lies.
        command: Repeats the last run on the command line.
    """

    folder: Path = field(default_factory=new_folder)
    path: Path | None = None
    slices: int = 1
    stopped: bool = False
    share: float = 0.0
    kept: Path | None = None
    command: str = EXAMPLE_COMMAND

    def view(self, index: int) -> Path:
        """The file with what is shown of a slice; there once it is reconstructed."""
        return self.folder / "views" / f"{index}.npz"

    def result(self, index: int) -> Path:
        """The folder with the files of a slice."""
        path = example.PICTURE if self.path is None else self.path
        return self.folder / "results" / path.stem / f"slice-{index:03d}"

    def clear(self) -> None:
        """Forget what was reconstructed."""
        for name in ("views", "results"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
