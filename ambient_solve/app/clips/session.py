"""The clip of one browser session, and the folder that goes with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.app.folders import new_folder, tame

if TYPE_CHECKING:
    from ambient_solve.video.files import VideoFacts


@dataclass
class ClipSession:
    """The clip of one browser session; its files lie in a folder that goes with it.

    Attributes:
        folder: Holds all its files.
        path: The clip that was put in, None before the first one.
        facts: What its file says of it.
        masks: A video of masks that was put in for it.
        taken: Number of clips that were put in.
        stopped: The visitor has asked the run to end.
        share: How far the run is, 0 to 1.
    """

    folder: Path = field(default_factory=new_folder)
    path: Path | None = None
    facts: VideoFacts | None = None
    masks: Path | None = None
    taken: int = 0
    stopped: bool = False
    share: float = 0.0

    def take(self, upload: Path, facts: VideoFacts) -> Path:
        """Keep a clip under a tame name, in place of the one before and all that was made of it.

        Args:
            upload: The file.
            facts: What it says of itself.

        Returns:
            The file that is kept.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        kept = linked(upload, folder / tame(upload.name))
        before, self.path, self.facts, self.masks = self.path, kept, facts, None
        self.taken += 1
        if before is not None:
            shutil.rmtree(before.parent, ignore_errors=True)
        return kept

    @property
    def work(self) -> Path:
        """The folder of what is made of the clip; it goes with the clip."""
        if self.path is None:
            raise RuntimeError("there is no clip")  # whoever asks has checked
        found = self.path.parent / "made"
        found.mkdir(exist_ok=True)
        return found

    def close(self) -> None:
        """End its run, and remove the folder."""
        self.stopped = True
        shutil.rmtree(self.folder, ignore_errors=True)


def linked(source: Path, to: Path) -> Path:
    """A file under another name, without a second copy where the disk allows it.

    Args:
        source: The file.
        to: The other name.

    Returns:
        `to`.
    """
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)
    return to
