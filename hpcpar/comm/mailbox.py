"""Letters from any rank to any other, which nobody has to expect: what servers live on.

A letter is one message: words as JSON, and arrays behind them. Letters between two ranks arrive in
the order in which they were posted, or not at all where one of the two is gone. The loss of a rank
is no error here: it is in `lost`, and letters to it are dropped.
"""

import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcpar.comm.lost import is_loss, lost_ranks, survives
from hpcpar.comm.request import ranks_text
from hpcpar.device import Array, to_host
from hpcpar.errors import HangError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Letter", "Mailbox", "Words"]

Words = dict[str, Any]

_BLOCK, _TYPE = 16, MPI.C_DOUBLE_COMPLEX  # bytes; MPI counts in an int, and letters may be long
_HEAD = 16  # bytes: those of the words, and of all
_LOOK = 0.05  # seconds between two looks for ranks that are gone
_SPINS = 50
_NAP = 1e-4  # seconds


class Letter(NamedTuple):
    """Attributes: source, a rank; words; arrays, on the host."""

    source: int
    words: Words
    arrays: list[np.ndarray]


class Mailbox:
    """A rank's, among those of `comm`. Collective to make; its calls are not.

    Attributes: lost, ranks that are known to be gone; posted, bytes of letters so far.
    """

    def __init__(self, comm: "Communicator") -> None:
        self._mpi = comm.mpi.Dup()
        self._mpi.Set_errhandler(MPI.ERRORS_RETURN)
        comm.barrier()  # all have it
        self.rank, self.size, self._timeout = comm.rank, comm.size, comm.timeout
        self.lost: set[int] = set()
        self.posted = 0
        self._own = deque[Letter]()  # to itself
        self._leaving: list[tuple[MPI.Request, int, np.ndarray]] = []
        self._arriving: dict[int, tuple[MPI.Request, np.ndarray]] = {}  # one of a rank at a time
        self._next, self._looked = 0, time.monotonic()
        self._status = MPI.Status()

    def post(self, to: int, words: Words, *arrays: Array) -> None:
        """Send a letter; the arrays may be changed afterwards."""
        if to in self.lost:
            return
        data = _packed(words, [np.ascontiguousarray(to_host(array)) for array in arrays])
        if to == self.rank:
            self._own.append(_unpacked(to, data))
            return
        self.posted += data.nbytes
        try:
            self._leaving.append((self._mpi.Isend(_spec(data), to), to, data))
        except MPI.Exception as error:
            self._note(error, to)

    def take(self) -> Letter | None:
        """A letter that has arrived, or None. Sends what is to be sent meanwhile."""
        self._send()
        if self._own:
            return self._own.popleft()
        for shift in range(self.size):
            source = (self._next + shift) % self.size
            if source != self.rank and (data := self._arrived(source)) is not None:
                self._next = (source + 1) % self.size
                return _unpacked(source, data)
        self._look()
        return None

    def _arrived(self, source: int) -> np.ndarray | None:
        """The next letter of a rank, when all of it is here.

        Also of one that is lost: what it had sent before may still come.
        """
        try:
            if source not in self._arriving:
                message = self._mpi.Improbe(source, MPI.ANY_TAG, self._status)
                if message is None:
                    return None
                data = np.empty(self._status.Get_count(_TYPE) * _BLOCK, np.uint8)
                # Nobody waits in MPI for the rest: the sender may be stopped in the middle.
                self._arriving[source] = message.Irecv(_spec(data)), data
            request, data = self._arriving[source]
            if not request.Test():
                return None
        except MPI.Exception as error:
            self._arriving.pop(source, None)  # broken off: the rest never comes
            self._note(error, source)
            return None
        del self._arriving[source]
        return data

    def wait(self, seconds: float) -> Letter | None:
        """The next letter, within so many seconds, or as soon as another rank is found lost."""
        limit, rounds, known = time.monotonic() + seconds, 0, len(self.lost)
        while (letter := self.take()) is None:
            if len(self.lost) > known or time.monotonic() > limit:
                return None
            rounds += 1
            if rounds > _SPINS:
                time.sleep(_NAP)
        return letter

    def flush(self) -> None:
        """Wait until all letters have left. Raises `HangError` after the communicator's timeout."""
        limit = time.monotonic() + self._timeout
        while self._leaving:
            self._send()
            if time.monotonic() > limit:
                whom = ranks_text(sorted({to for _, to, _ in self._leaving}))
                raise HangError(
                    f"rank {self.rank} waited {self._timeout:g} s for {whom} to take its letters"
                )
            time.sleep(_NAP)

    def _send(self) -> None:
        left = []
        for request, to, data in self._leaving:
            try:
                if to not in self.lost and not request.Test():
                    left.append((request, to, data))
            except MPI.Exception as error:
                self._note(error, to)
        self._leaving = left

    def _look(self) -> None:
        now = time.monotonic()
        if survives() and now - self._looked > _LOOK:
            self._looked = now
            self.lost.update(lost_ranks(self._mpi))

    def _note(self, error: MPI.Exception, rank: int) -> None:
        """A call with a rank has failed: raises the error unless the rank is gone."""
        if not is_loss(error):
            raise error
        self.lost.add(rank)


def _spec(data: np.ndarray) -> Any:
    """For MPI: a letter in blocks, of which there are no parts."""
    return data, len(data) // _BLOCK, _TYPE


def _packed(words: Words, arrays: list[np.ndarray]) -> np.ndarray:
    """[bytes of the text, bytes of all] text, padding, then each array, padded to 16 bytes."""
    shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
    text = json.dumps([words, shapes]).encode()
    at = _aligned(_HEAD + len(text))
    data = np.zeros(at + sum(_aligned(array.nbytes) for array in arrays), np.uint8)
    data[:_HEAD].view(np.int64)[:] = len(text), data.nbytes
    data[_HEAD : _HEAD + len(text)] = np.frombuffer(text, np.uint8)
    for array in arrays:
        data[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
        at += _aligned(array.nbytes)
    return data


def _unpacked(source: int, data: np.ndarray) -> Letter:
    length = int(data[:8].view(np.int64)[0])
    words, shapes = json.loads(data[_HEAD : _HEAD + length].tobytes())
    at, arrays = _aligned(_HEAD + length), []
    for dtype, shape in shapes:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays.append(data[at : at + size].view(dtype).reshape(shape))
        at += _aligned(size)
    return Letter(source, words, arrays)


def _aligned(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
