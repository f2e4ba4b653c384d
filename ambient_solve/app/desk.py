"""Who works on a prior next. Quick jobs and long ones have a lane each, so that a long one does not hold up the others.

In each lane one job works at a time, each with a prior of its own. First come, first served, but the second job of a
visitor waits for the first jobs of all others, and no visitor has two jobs at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ambient_solve.app.work import QUICK

T = TypeVar("T")
TICK = 1.0
"""Time after which a job that reports nothing is said to be at work still, in seconds."""
LONG = "long"
"""Name of the lane of long jobs."""
END = object()
"""Mark that there are no more reports."""
MOVE = object()
"""Report that the job has found out which lane it is for."""
PATIENCE = 1.0
"""Time after which a job that waits says again how many are before it, in seconds; then it can be ended, too."""


@dataclass(eq=False)
class Job:
    """One run on the page.

    Attributes:
        visitor: Whose it is; jobs of nobody have nothing to do with each other.
        work: Passes through the network times pixels (see `work`), 0 while unknown.
        minutes: How long it may work; 0 is no limit.
        over: The minutes have passed, and the job is ending.
        rank: How many jobs of the visitor were there before it.
    """

    work: float = 0.0
    visitor: str | None = None
    minutes: float = 0.0
    over: bool = field(default=False, init=False)
    rank: int = field(default=0, init=False)

    @property
    def lane(self) -> str:
        """Which of the lanes it takes."""
        return LONG if self.work > QUICK else "quick"

    @property
    def over_words(self) -> str:
        """What is said where it is over."""
        return f"Ended: a job may take {self.minutes:g} minutes here."


class Lane:
    """The jobs of a kind: one at work, on a thread that all of them share, and those that wait."""

    def __init__(self) -> None:
        self.worker = ThreadPoolExecutor(1, "lane", initializer=self._begin)
        self.thread = 0
        self.waiting: list[Job] = []
        self.working: Job | None = None

    def _begin(self) -> None:
        self.thread = threading.get_ident()

    def end(self, close: Callable[[], None]) -> None:
        """Call `close` on the thread of the lane, which may be this one where a forgotten job is collected there."""
        if threading.get_ident() == self.thread:
            close()
        else:
            self.worker.submit(close).result()


class Desk:
    """The lanes, and who is next in each."""

    def __init__(self) -> None:
        self.lanes = {"quick": Lane(), LONG: Lane()}
        self.changed = threading.Condition()

    def serve(
        self,
        job: Job,
        reports: Iterator[T],
        waiting: Callable[[str], T],
        ticking: Callable[[], T] | None = None,
    ) -> Iterator[T]:
        """The reports of a job, made in its lane once it is its turn. Closing the iterator gives the lane free.

        Args:
            job: Whose turn it will be; `job.over` is set with the last report where the time is up.
            reports: Makes them. A report that is MOVE says that the job has found out what it asks for: it goes on in
                the lane that it is for.
            waiting: Makes a report of the words that are said while the job waits.
            ticking: Makes a report every TICK seconds while the next one is made.

        Returns:
            An iterator over what `waiting` makes, and over the reports.
        """
        try:
            lane, started = (yield from self._turn(job, waiting)), None
            while (report := (yield from _awaited(lane.worker.submit(next, reports, END), ticking))) is not END:
                if report is MOVE:
                    self._leave(job)
                    lane = yield from self._turn(job, waiting)
                    continue
                started = time.monotonic() if started is None else started  # what comes first is no result yet
                job.over = 0 < 60 * job.minutes <= time.monotonic() - started
                yield report
                if job.over:
                    return
        finally:
            self._close(job, reports)

    def alone(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, made between the jobs of the quick lane."""
        return self.lanes["quick"].worker.submit(call).result()

    def _turn(self, job: Job, waiting: Callable[[str], T]) -> Generator[T, None, Lane]:
        """Wait for the turn of `job`; returns its lane, in which it is at work then."""
        lane = self.lanes[job.lane]
        with self.changed:
            job.rank = 0 if job.visitor is None else sum(other.visitor == job.visitor for other in self._jobs())
            lane.waiting.append(job)
            self.changed.notify_all()
        while (before := self._before(job, lane)) is not None:
            yield waiting(f"Waiting: {before} job{'s' * (before != 1)} before this one")
        return lane

    def _before(self, job: Job, lane: Lane) -> int | None:
        """How many jobs are before this one after PATIENCE seconds; None as soon as it is at work."""
        until = time.monotonic() + PATIENCE
        with self.changed:
            while True:
                row = self._row(lane)
                if lane.working is None and row and row[0] is job:
                    lane.waiting.remove(job)
                    lane.working = job
                    return None
                left = until - time.monotonic()
                if left <= 0:
                    place = row.index(job) if job in row else len(lane.waiting) - 1
                    return place + (lane.working is not None)
                self.changed.wait(left)

    def _jobs(self) -> list[Job]:
        """All that wait or work."""
        working = [lane.working for lane in self.lanes.values() if lane.working is not None]
        return working + [job for lane in self.lanes.values() for job in lane.waiting]

    def _row(self, lane: Lane) -> list[Job]:
        """Those that may work next, the next one first; of the same rank in the order in which they came."""
        busy = {each.working.visitor for each in self.lanes.values() if each.working is not None} - {None}
        return sorted((job for job in lane.waiting if job.visitor not in busy), key=lambda job: job.rank)

    def _close(self, job: Job, reports: Iterator[Any]) -> None:
        """End the job where it works, and give its lane free."""
        close = getattr(reports, "close", None)
        try:
            lane = next((lane for lane in self.lanes.values() if lane.working is job), None)
            if close is not None:
                close() if lane is None else lane.end(close)
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        with self.changed:
            for lane in self.lanes.values():
                if lane.working is job:
                    lane.working = None
                if job in lane.waiting:
                    lane.waiting.remove(job)
            self.changed.notify_all()


def _awaited(report: Future[T], ticking: Callable[[], T] | None) -> Generator[T, None, T]:
    """Wait for a report; returns it."""
    while ticking is not None and not wait_for([report], TICK).done:
        yield ticking()
    return report.result()


DESK = Desk()
"""The desk of this process: all its pages work on the same machine."""
