"""Operations under way, and the waiting for them.

An operation is a generator that yields whenever it cannot go on. The engine of a communicator (and
of those split from it) has a list of them; whoever tests or waits moves them all, so it does not
matter in which order requests are waited for, here or on other ranks.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from hpcpar.comm.flight import Flight
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.symmetric import local
from hpcpar.errors import HangError

__all__ = ["Call", "Engine", "Numbers", "Patience", "Request", "caller", "ranks_text"]

Work = Generator[None, None, Any]

_INSIDE = (
    str(Path(__file__).parent) + os.sep,
    contextlib.__file__,
)  # `together` has frames of both
_SPINS = 200  # rounds of polling before the core is offered to others
_PATIENCE = 2000  # rounds before a rank that shares its core sleeps
_NAP = 50e-6  # seconds


class Numbers:
    """Counts the calls of a communicator: all ranks count alike, so equal numbers belong together.

    A call's messages have the tag of its number, from 0 to `tags` - 1.
    """

    __slots__ = ("last", "tags")

    def __init__(self, tags: int) -> None:
        self.last, self.tags = 0, tags

    def next(self) -> tuple[int, int]:
        """Number and tag of a call that begins now."""
        self.last = number = self.last + 1
        return number, number % self.tags


class Call:
    """What an operation says of itself: for errors, for the ledger, and how far it has come."""

    __slots__ = (
        "bytes",
        "entry",
        "facts",
        "finished",
        "flight",
        "kind",
        "messages",
        "name",
        "number",
        "pending",
        "ready",
        "tag",
        "where",
        "who",
    )

    def __init__(
        self,
        flight: Flight,
        who: str,
        kind: str,
        name: str,
        number: int,
        tag: int,
        facts: Mapping[str, object],
        record: int | None = None,
    ) -> None:
        self.flight = flight
        self.who = who  # rank 2 of 4
        self.facts = facts  # what the ranks of the call have to agree on
        self.kind = kind  # collective or message
        self.name = name
        self.number = number  # which collective, or which message, of its communicator: from 1
        self.tag = tag
        frame = caller()
        self.where = frame.f_code.co_filename, frame.f_lineno
        self.messages = self.bytes = 0  # sent
        self.ready: Any = None  # the caller's stream, where GPU arrays travel
        self.finished = 0  # transfers: grows as long as there is progress
        self.pending: Callable[[], Iterable[int]] = tuple  # the peers it waits for
        if record is not None:
            return  # it stands in the flight recorder already
        recorder = flight.recorder
        slot = flight.collective if kind == "collective" else flight.message
        size, peer = _size_and_peer(facts)
        operation, site = recorder.operation(name), recorder.site(frame)
        self.entry = recorder.start(slot, operation, number, size, peer, site)

    def release(self) -> None:
        """Let go of the arrays: the call is over."""
        self.facts, self.pending = {}, tuple

    def __str__(self) -> str:
        file, line = self.where
        tag = f" (tag {self.tag})" if self.kind == "message" else ""
        return f"{self.name} #{self.number}{tag} at {file}:{line}"


class Request:
    """An operation under way. Its result is what the blocking form returns.

    Keep the arrays of the call unchanged until it is done. A request need not be waited for: it
    moves on with any other, and `Communicator.close` waits for it. Only waits have a time limit.
    """

    __slots__ = ("_engine", "_error", "_result", "_start", "_work", "call", "done", "ledger")

    def __init__(self, engine: "Engine", ledger: Ledger, call: Call, work: Work) -> None:
        self._engine, self.ledger, self.call, self._work = engine, ledger, call, work
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
            self.ledger.add(call.name, call.messages, call.bytes, seconds)
            call.flight.recorder.finish(call.entry)
            call.release()
            self.done = True
        except Exception as error:
            self._engine.keep(self)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.call.flight.recorder.give_up(self.call.entry)
        self.done = True


_KEPT: list[object] = []  # MPI may write into these arrays until the process ends


class Patience:
    """How one waits: spinning at first, then offering the core to others; and for how long.

    Args:
        timeout: seconds without progress.
        crowded: more ranks than cores: then the others need this core to get any further.
    """

    __slots__ = ("_crowded", "_limit", "_rounds", "_seen", "_timeout")

    def __init__(self, timeout: float, crowded: bool) -> None:
        self._timeout, self._crowded = timeout, crowded
        self._rounds = _SPINS if crowded else 0
        self._seen, self._limit = -1, 0.0

    def over(self, progress: int) -> bool:
        """After a round in vain: pause; whether `progress` has stayed the same for too long."""
        self._rounds += 1
        if self._rounds < _SPINS:
            return False
        now = time.monotonic()
        if progress != self._seen:
            self._seen, self._limit = progress, now + self._timeout
        elif now > self._limit:
            return True
        if self._crowded and self._rounds > _PATIENCE:
            time.sleep(_NAP)
        else:
            os.sched_yield()
        return False


class Engine:
    """The requests under way of a communicator and of all that were split from it."""

    def __init__(self, timeout: float, crowded: bool) -> None:
        self.timeout, self.crowded = timeout, crowded
        self.broken: str | None = None  # what made this communicator unusable
        self.active: list[Request] = []
        self.lock = threading.RLock()  # the progress thread moves requests too
        self.started: Callable[[], object] = bool  # told of every request that stays under way
        self.hung: list[Callable[[], object]] = []  # called after a hang
        self.ended = False  # nobody may touch MPI any more

    def enter(self, request: Request) -> None:
        """Start a request: it goes as far as it can at once."""
        self.usable()
        with self.lock:
            request._step()
            if not request.done:
                self.active.append(request)
                self.started()

    def under_way(self, ledger: Ledger) -> list[Request]:
        """The requests of the communicator with this ledger."""
        return [request for request in self.active if request.ledger is ledger]

    def usable(self) -> None:
        """Raises HangError after a hang."""
        if self.broken is not None:
            raise HangError(f"this communicator cannot be used after: {self.broken}")

    def keep(self, *things: object) -> None:
        """Never let go of a failed call's arrays, not even when the communicator is gone."""
        _KEPT.extend(things)

    def advance(self) -> None:
        """Move every request on."""
        with self.lock:
            for request in tuple(self.active):
                request._step()
                if request.done:
                    self.active.remove(request)

    def wait(self, request: Request) -> None:
        """Move every request on until this one is done, or has had no progress for too long."""
        call = request.call
        recorder, seen = call.flight.recorder, call.finished
        patience = Patience(self.timeout, self.crowded)
        recorder.wait(call.entry)
        try:
            while True:
                self.advance()
                if request.done:
                    return
                if call.finished != seen:
                    seen = call.finished
                    recorder.progress()
                if patience.over(seen):
                    self.give_up(call)
                    return
        finally:
            recorder.go_on()

    def give_up(self, call: Call) -> HangError:
        """The error of a wait that was too long; everything under way fails with it."""
        peers = sorted(set(call.pending()))
        whom = f"for {ranks_text(peers)}" if peers else "for the other ranks"
        told = call.flight.verdict(call.kind, call.number)
        self.broken = f"{call.who} waited {self.timeout:g} s in {call} {whom}"
        error = HangError(
            f"{self.broken}: {told.sentence}",
            f"{told.sentence}\n{told.table}" if told.first else "",
        )
        with self.lock:
            for hung in self.active:
                hung._fail(error)
                self.keep(hung)
            self.active.clear()
        for abort in self.hung:
            abort()
        return error


def ranks_text(ranks: list[int]) -> str:
    """rank 3; ranks 0, 1 and 5."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def caller() -> FrameType:
    """The innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame


def _size_and_peer(facts: Mapping[str, object]) -> tuple[int, int]:
    """Bytes of a call's array, and its root or the other end; -1 where there is none."""
    array = local(facts.get("x"))
    peers = (facts[name] for name in ("root", "source", "dest") if name in facts)
    return getattr(array, "nbytes", 0), next(peers, -1)  # type: ignore[return-value]
