"""Ctrl-C, or the end of a job, while a run trains: the step is finished and a checkpoint written; nothing is lost."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What is listened for, where nobody else does: Ctrl-C, and what a scheduler sends before it kills a job."""


class Stopping:
    """Listens for SIGNALS while it is entered; the second one ends the program at once.

    Only in the main thread of a run of one process: others are stopped at different steps, each where it is.

    Attributes:
        asked: Whether the run is to stop after this step.
    """

    def __init__(self, processes: int) -> None:
        self.asked = False
        self._listens = processes == 1 and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        for sign, usual in SIGNALS.items() if self._listens else ():
            if signal.getsignal(sign) is usual:
                self._before[sign] = signal.signal(sign, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this step, with a checkpoint. Once more stops at once.", file=sys.stderr)
