"""Ctrl-C while a run trains: the step is finished and a checkpoint written, so that nothing is lost."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopping:
    """Listens for an interrupt while it is entered; the second one ends the program at once.

    Only in the main thread of a run of one process: others are stopped at different steps, each where it is.

    Attributes:
        asked: Whether the run is to stop after this step.
    """

    def __init__(self, processes: int) -> None:
        self.asked = False
        self._listens = processes == 1 and threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> Stopping:
        if self._listens and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this step, with a checkpoint. Once more stops at once.", file=sys.stderr)
