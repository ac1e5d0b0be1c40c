"""The waiting for operations.

The engine of a communicator, and of those split from it, has a list of the requests under way.
Whoever tests or waits moves them all, so it does not matter in which order requests are waited for,
here or on other ranks.
"""

import os
import threading
import time
from collections.abc import Callable

from mpi4py import MPI

from hpcpar.comm.ledger import Ledger
from hpcpar.comm.lost import is_loss, revoke
from hpcpar.comm.request import Call, Request, ranks_text
from hpcpar.errors import HangError, LostRankError

__all__ = ["Engine", "Patience"]

_SPINS = 200  # rounds of polling before the core is offered to others
_PATIENCE = 2000  # rounds before a rank that shares its core sleeps
_NAP = 50e-6  # seconds
_KEPT: list[object] = []  # MPI may write into these arrays until the process ends


class Patience:
    """How one waits: spinning at first, then offering the core to others; and for how long.

    Args:
        timeout: seconds without progress.
        crowded: more ranks than cores: then the others need this core to get any further.
    """

    __slots__ = ("_crowded", "_limit", "_rounds", "_seen", "_timeout", "renewed")

    def __init__(self, timeout: float, crowded: bool) -> None:
        self._timeout, self._crowded = timeout, crowded
        self._rounds = _SPINS if crowded else 0
        self._seen, self._limit = -1, 0.0
        self.renewed = False

    def renew(self) -> None:
        """Begin again, once."""
        self._seen, self.renewed = -1, True

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
        self.lost = False  # that was the loss of a rank
        self.channels: list[MPI.Comm] = []  # all that requests communicate over
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
        """Raises HangError after a hang, LostRankError after the loss of a rank."""
        if self.broken is not None:
            kind = LostRankError if self.lost else HangError
            raise kind(f"this communicator cannot be used after: {self.broken}")

    def keep(self, *things: object) -> None:
        """Never let go of a failed call's arrays, not even when the communicator is gone."""
        _KEPT.extend(things)

    def advance(self) -> None:
        """Move every request on."""
        with self.lock:
            for request in tuple(self.active):
                try:
                    request._step()
                finally:
                    if request.done and request in self.active:  # a loss has emptied the list
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
                if patience.over(seen) and self.give_up(call, patience):
                    return
        finally:
            recorder.go_on()

    def give_up(self, call: Call, patience: Patience) -> HangError | None:
        """The error of a wait that was too long; everything under way fails with it.

        None where those who were waited for have been killed: their loss is about to be found.
        """
        peers = sorted(set(call.pending()))
        whom = f"for {ranks_text(peers)}" if peers else "for the other ranks"
        told = call.flight.verdict(call.kind, call.number)
        if told.killed and not patience.renewed:
            patience.renew()
            return None
        self.broken = f"{call.who} waited {self.timeout:g} s in {call} {whom}"
        error = HangError(
            f"{self.broken}: {told.sentence}",
            f"{told.sentence}\n{told.table}" if told.first else "",
        )
        self._fail_all(error)
        return error

    def explain(self, error: Exception, where: str) -> Exception:
        """What to raise for an error of MPI's: where a rank is gone, nothing can be used again."""
        if not is_loss(error):
            return error
        if self.broken is None:
            self.broken, self.lost = f"a rank was lost in {where}", True
            revoke(self.channels)
        lost = LostRankError(self.broken)
        lost.__cause__ = error
        self._fail_all(lost)
        return lost

    def _fail_all(self, error: Exception) -> None:
        with self.lock:
            for request in self.active:
                request._fail(error)
                self.keep(request)
            self.active.clear()
        for abort in self.hung:
            abort()
