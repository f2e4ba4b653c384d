"""A run in tiles, watched between two of its levels: how many tiles are done, and an end within one of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ambient_solve.priors.tiled import TiledPrior

T = TypeVar("T")
END = object()
"""Mark that there are no more states."""


class _Ended(Exception):
    """Nobody waits for the run any more."""


def watched(states: Iterator[T], tiled: TiledPrior | None, interval: float) -> Iterator[T | int]:
    """The states of a run, and between them how many tiles of the level are done.

    The run has a thread of its own, which is at most one state ahead.

    Args:
        states: Of the run.
        tiled: The prior of the run, if it is in tiles; without one its states are all there is.
        interval: Seconds after which something is said, at most.

    Returns:
        An iterator over the states, and whole numbers in between. Closing it ends the run within a tile.
    """
    if tiled is None:
        yield from states
        return
    made: queue.Queue[Any] = queue.Queue(1)
    stop, begun = threading.Event(), tiled.done

    def watch(done: int) -> None:
        if stop.is_set():
            raise _Ended

    def hand_over(thing: Any) -> None:
        while not stop.is_set():
            try:
                made.put(thing, timeout=interval)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for state in states:
                hand_over(state)
            hand_over(END)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the run is waited for
            hand_over(error)

    tiled.watch = watch
    worker = threading.Thread(target=work, name="run in tiles", daemon=True)
    worker.start()
    try:
        while True:
            try:
                thing = made.get(timeout=interval)
            except queue.Empty:
                yield tiled.done - begun
                continue
            if thing is END:
                return
            if isinstance(thing, BaseException):
                raise thing
            begun = tiled.done
            yield thing
    finally:
        stop.set()
        worker.join()
        tiled.watch = None
