"""Operations under way, and the waiting for them.

An operation is a generator that yields whenever it cannot go on. The engine of a communicator (and
of those split from it) has a list of them; whoever tests or waits moves them all, so it does not
matter in which order requests are waited for, here or on other ranks.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

from hpcpar.comm.ledger import Ledger
from hpcpar.errors import HangError

__all__ = ["Call", "Engine", "Request", "caller", "ranks_text"]

Work = Generator[None, None, Any]

_INSIDE = (
    str(Path(__file__).parent) + os.sep,
    contextlib.__file__,
)  # `together` has frames of both
_SPINS = 200  # rounds of polling before the core is offered to others
_PATIENCE = 2000  # rounds before a rank that shares its core sleeps
_NAP = 50e-6  # seconds


class Call:
    """What an operation says of itself: for errors, for the ledger, and how far it has come."""

    __slots__ = (
        "bytes",
        "finished",
        "messages",
        "name",
        "number",
        "pending",
        "tag",
        "where",
        "who",
    )

    def __init__(self, who: str, name: str, number: int, tag: int) -> None:
        self.who = who  # rank 2 of 4
        self.name = name
        self.number = number  # which collective, or which message, of its communicator: from 1
        self.tag = tag
        self.where = caller()
        self.messages = self.bytes = 0  # sent
        self.finished = 0  # transfers: grows as long as there is progress
        self.pending: Callable[[], Iterable[int]] = tuple  # the peers it waits for

    def __str__(self) -> str:
        file, line = self.where
        return f"{self.name} #{self.number} at {file}:{line}"


class Request:
    """An operation under way. Its result is what the blocking form returns.

    Keep the arrays of the call unchanged until it is done. A request need not be waited for: it
    moves on with any other, and `Communicator.close` waits for it. Only waits have a time limit.
    """

    __slots__ = ("_engine", "_error", "_ledger", "_result", "_start", "_work", "call", "done")

    def __init__(self, engine: "Engine", ledger: Ledger, call: Call, work: Work) -> None:
        self._engine, self._ledger, self.call, self._work = engine, ledger, call, work
        self._result: Any = None
        self._error: Exception | None = None
        self._start = time.perf_counter()
        self.done = False
        self._engine.enter(self)

    def test(self) -> bool:
        """Move all requests on, without waiting; True when this one is done.

        Raises what went wrong in the operation, if anything did.
        """
        if not self.done:
            self._engine.advance()
        if self._error is not None:
            raise self._error
        return self.done

    def wait(self) -> Any:
        """Wait until it is done, and return its result.

        Raises `HangError` after `timeout` seconds in which the operation made no progress, and what
        went wrong in the operation.
        """
        if not self.done:
            self._engine.wait(self)
        if self._error is not None:
            raise self._error
        return self._result

    def _step(self) -> None:
        """Let the operation go as far as it can."""
        try:
            next(self._work)
        except StopIteration as end:
            self._result = end.value
            call, seconds = self.call, time.perf_counter() - self._start
            self._ledger.add(call.name, call.messages, call.bytes, seconds)
            self.done = True
        except Exception as error:
            self._error = error
            self._engine.keep(self)
            self.done = True

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.done = True


_FAILED: list[Request] = []  # MPI may write into their arrays until the process ends


class Engine:
    """The requests under way of a communicator and of all that were split from it."""

    def __init__(self, timeout: float, crowded: bool) -> None:
        self.timeout, self.crowded = timeout, crowded
        self.broken: str | None = None  # what made this communicator unusable
        self._active: list[Request] = []

    def enter(self, request: Request) -> None:
        """Start a request: it goes as far as it can at once."""
        if self.broken is not None:
            raise HangError(f"this communicator cannot be used after: {self.broken}")
        request._step()
        if not request.done:
            self._active.append(request)

    def keep(self, request: Request) -> None:
        """Never let go of a failed request's arrays, not even when the communicator is gone."""
        _FAILED.append(request)

    def advance(self) -> None:
        """Move every request on."""
        for request in tuple(self._active):
            request._step()
            if request.done:
                self._active.remove(request)

    def wait(self, request: Request) -> None:
        """Move every request on until this one is done, or has had no progress for too long."""
        rounds = _SPINS if self.crowded else 0  # the others need this core to get any further
        seen, limit = request.call.finished, time.monotonic() + self.timeout
        while True:
            self.advance()
            if request.done:
                return
            rounds += 1
            if rounds < _SPINS:
                continue
            now = time.monotonic()
            if request.call.finished != seen:
                seen, limit = request.call.finished, now + self.timeout
            elif now > limit:
                self._hang(request)
                return
            if self.crowded and rounds > _PATIENCE:
                time.sleep(_NAP)
            else:
                os.sched_yield()

    def _hang(self, request: Request) -> None:
        peers = sorted(set(request.call.pending()))
        whom = f"for {ranks_text(peers)}" if peers else "for the other ranks"
        call = request.call
        self.broken = f"{call.who} waited {self.timeout:g} s in {call} {whom}"
        for hung in self._active:
            hung._fail(HangError(self.broken))
            self.keep(hung)
        self._active.clear()


def ranks_text(ranks: list[int]) -> str:
    """rank 3; ranks 0, 1 and 5."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def caller() -> tuple[str, int]:
    """File and line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
