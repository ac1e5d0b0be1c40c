"""Signals that ask a run to stop: it saves, and ends so that it can be started again.

SIGTERM is what launchers and batch systems end jobs with, SIGINT is Ctrl-C, SIGUSR1 is what mpirun
passes on to all ranks without ending them.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from hpcpar.errors import StoppedError

__all__ = ["StopSignals"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Notes these signals for as long as its block runs; they do nothing else, but a second SIGINT.

    Outside of the main thread, where no signals can be taken, it notes nothing.

    Attributes: came, whether one came.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, StoppedError):
            return  # the process ends, and signals that come again must not change its status
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if number == signal.SIGINT:  # whoever cannot wait for the end of the step asks again
            signal.signal(number, self._before[number])
