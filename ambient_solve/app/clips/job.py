"""A clip is restored on the page, with reports on the way. Knows no gradio; `ambient_solve.video` does the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app.panels import duration
from ambient_solve.app.stopping import Stopped, stoppable

if TYPE_CHECKING:
    from PIL import Image

    from ambient_solve.priors.base import Prior
    from ambient_solve.video.restoring import ClipRequest
    from ambient_solve.video.store import VideoOutcome


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        share: How far it is, 0 to 1.
        words: The same for readers.
        picture: The frame that was finished last.
        outcome: That of the clip, once it is finished.
    """

    share: float
    words: str
    picture: Image.Image | None = None
    outcome: VideoOutcome | None = None


class ClipRun:
    """One restoration: it can be stopped within a pass through the network, and says how far it is in between.

    Args:
        request: What is to be restored, and how.
        path: The clip.
        out: The restored clip.
        asked: Whether the run is to end.
    """

    def __init__(self, request: ClipRequest, path: Path, out: Path, asked: Callable[[], bool]) -> None:
        self.request, self.path, self.out, self.asked = request, path, out, asked
        self._frames = (request.last or 0) - request.first
        self._number, self._level, self._started = 0, 0.0, time.monotonic()
        self._begun: int | None = None

    def on(self, prior: Prior) -> Iterator[Progress]:
        """Restore the clip.

        Args:
            prior: Of pictures.

        Returns:
            An iterator over a `Progress` after each frame, and at last one with the outcome. Closing it ends the run.

        Raises:
            AmbientSolveError: a file or a setting does not fit.
            Stopped: the run was asked to end.
        """
        from PIL import Image

        from ambient_solve.video.restoring import restored_frames

        self._started = time.monotonic()
        made = restored_frames(self.path, self.out, stoppable(prior, self.asked), self.request, self._after)
        while True:
            try:
                frame = next(made)
            except StopIteration as ended:
                yield Progress(1.0, self._ended(ended.value), outcome=ended.value)
                return
            self._at(frame.number + 1, 0.0)
            picture = Image.fromarray(frame.pixels.permute(1, 2, 0).numpy())
            yield Progress(self.share, self.words, picture)

    def _after(self, number: int, state: Any) -> None:
        """A level of a frame is done."""
        if self.asked():
            raise Stopped
        self._at(number, state.step / state.steps)

    def _at(self, number: int, level: float) -> None:
        if self._begun is None:
            self._begun = number  # by an earlier run, which took its own time
        self._number, self._level = number, level

    def _ended(self, outcome: VideoOutcome) -> str:
        before = f", {outcome.begun} of them before" if 0 < outcome.begun < outcome.frames else ""
        return f"Finished: {outcome.frames} of {outcome.frames} frames{before}."

    @property
    def share(self) -> float:
        """How far the run is, 0 to 1."""
        return min((self._number + self._level) / max(self._frames, 1), 1.0)

    @property
    def words(self) -> str:
        """The same for readers, with the time that is left."""
        if self._number == 0 and self._level == 0:
            return f"Reading the clip and preparing frame 1 of {self._frames}"
        words = f"Frame {min(self._number + 1, self._frames)} of {self._frames}"
        words += f", {100 * self._level:.0f} % of it" if self._level else ""
        done = self._number + self._level - (self._begun or 0)
        if done > 0.2:
            left = (time.monotonic() - self._started) * (self._frames - self._number - self._level) / done
            words += f"; about {duration(left)} left"
        return words

    def progress(self) -> Progress:
        """What is said every now and then while the next frame is made."""
        return Progress(self.share, "Stopping" if self.asked() else self.words)
