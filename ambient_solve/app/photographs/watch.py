"""What is said of a run between its reports: that it goes on, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ambient_solve.app.panels import duration
from ambient_solve.app.stopping import StoppablePrior, stoppable

if TYPE_CHECKING:
    from ambient_solve.app.photographs.run import Progress
    from ambient_solve.priors.base import Prior


class Watch:
    """Watches one run.

    Args:
        asked: Whether the run is to end.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked
        self.prior: Prior | None = None
        self.share, self._words, self._seen = 0.0, "Preparing", 0
        self._expected: float | None = None
        self._started = time.monotonic()

    def on(self, prior: Prior) -> Prior:
        """The prior for the run, which can be stopped."""
        self.prior = stoppable(prior, self.asked)
        return self.prior

    def begin(self, expected: float | None) -> None:
        """The run begins.

        Args:
            expected: Seconds that it is expected to take, None where nothing is known.
        """
        self._words, self._expected, self._started = "Starting", expected, time.monotonic()

    def said(self, share: float, words: str) -> float:
        """Remember a report.

        Args:
            share: How far the run is, 0 to 1.
            words: What it says.

        Returns:
            The share.
        """
        self.share, self._words, self._expected = share, words, None
        self._seen = self._passes
        return share

    @property
    def _passes(self) -> int:
        return self.prior.made if isinstance(self.prior, StoppablePrior) else 0

    @property
    def words(self) -> str:
        """The last report, and what has been done since."""
        words, done = self._words, self._passes - self._seen
        if done > 1:
            words += f"; part {done} of the next level"
        if self._expected is not None:
            left = self._expected - (time.monotonic() - self._started)
            words += f"; about {duration(left)} left" if left > 0 else ""
        return words

    def progress(self) -> Progress:
        """What is said every now and then while the next report is made."""
        from ambient_solve.app.photographs.run import Progress

        return Progress(self.share, "Stopping" if self.asked() else self.words)
