"""Operations under way: generators that yield whenever they cannot go on."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hpcpar.comm.flight import Flight
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.symmetric import local
from hpcpar.errors import MismatchError

if TYPE_CHECKING:
    from hpcpar.comm.engine import Engine

__all__ = ["Call", "Numbers", "Request", "Work", "caller", "ranks_text"]

Work = Generator[None, None, Any]

_PACKAGE = Path(__file__).parents[1]
_INSIDE = (  # `together` has frames of contextlib too
    *(str(_PACKAGE / folder) + os.sep for folder in ("comm", "linalg")),
    str(_PACKAGE / "mesh.py"),
    contextlib.__file__,
)


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
            if not isinstance(error, MismatchError):  # then nothing was started
                self._engine.keep(self)
            self._fail(self._engine.explain(error, f"{self.call.who}, {self.call}"))
        except BaseException as interruption:  # from here it goes to whoever waits
            self._engine.keep(self)
            self._fail(RuntimeError(f"{self.call} was interrupted: {interruption!r}"))
            raise

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.call.flight.recorder.give_up(self.call.entry)
        self.done = True


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
