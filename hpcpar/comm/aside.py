"""Waits beside the calls of a communicator: no ledger counts them, and they have a limit too."""

import os
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcpar.errors import HangError

__all__ = ["Aside"]

_SPINS = 50  # tests, ten microseconds or so, before the processor is offered to others
_NAP = 5e-4  # seconds
_KEPT: list[object] = []  # MPI may write into the arrays of these until the process ends


class Aside:
    """What ranks say to each other over an MPI communicator of theirs, apart from all calls.

    Args:
        channel: what the messages go over.
        timeout: seconds after which every wait raises `HangError`.
        name: what errors call this.
    """

    def __init__(self, channel: MPI.Comm, timeout: float, name: str) -> None:
        self.channel, self._timeout, self._name = channel, timeout, name
        self.rank, self.size = channel.Get_rank(), channel.Get_size()

    def finish(self, test: Callable[[], bool], whom: str = "the other ranks") -> None:
        """Wait until `test` says so, with the processor at work."""
        for _ in range(_SPINS):
            if test():
                return
        limit = time.monotonic() + self._timeout
        while not test():
            os.sched_yield()
            self._check(limit, test, whom)

    def rest(self, test: Callable[[], bool], whom: str = "the other ranks") -> None:
        """Wait until `test` says so, and leave the processor to others."""
        limit = time.monotonic() + self._timeout
        while not test():
            time.sleep(_NAP)
            self._check(limit, test, whom)

    def meet(self) -> None:
        """Go on when all ranks have come."""
        self.rest(self.channel.Ibarrier().Test)

    def add(self, mine: np.ndarray) -> np.ndarray:
        """The sum of everybody's, on every rank."""
        total = np.empty_like(mine)
        self.finish(self.channel.Iallreduce(mine, total).Test)
        return total

    def tell(self, array: np.ndarray) -> np.ndarray:
        """Fill `array` with that of rank 0."""
        self.finish(self.channel.Ibcast(array).Test, "rank 0")
        return array

    def _check(self, limit: float, test: Callable[[], bool], whom: str) -> None:
        if time.monotonic() > limit:
            _KEPT.append(test)
            raise HangError(
                f"rank {self.rank} of {self.size} waited {self._timeout:g} s in {self._name} "
                f"for {whom}"
            )
