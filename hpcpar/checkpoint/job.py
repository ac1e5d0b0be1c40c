"""Work in a thread of its own, that can be asked how far it is."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Job"]

T = TypeVar("T")


class Job(Generic[T]):
    """Calls `work(moved)`; it calls `moved(n)` when it has got on by n of anything.

    The thread ends with the process: nobody has to wait for a disk that does not answer.

    Attributes: moved, the sum of what it told.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], T]) -> None:
        self.moved = 0
        self._work = work
        self._result: T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="checkpoint")
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether `result` will not wait."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Until it is done, or so long."""
        self._thread.join(seconds)

    def result(self) -> T:
        """What the work returned, when it is done; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work(self._move)
        except BaseException as error:
            self._error = error

    def _move(self, count: int) -> None:
        self.moved += count
