"""All workers stop after the same step, though they are not at the same one."""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["Stopping"]


class Stopping:
    """Workers tell each other at every step whether they were asked to stop, and wait for nobody.

    Args:
        distance: how many steps later all have surely told.
    """

    def __init__(self, comm: "Communicator", distance: int) -> None:
        self._comm, self._distance = comm, distance
        self._told: deque[Request] = deque()

    def after(self, asked: bool) -> bool:
        """Once after each step, on all workers; whether all stop now. Collective."""
        self._told.append(self._comm.iallreduce(np.array([float(asked)]), op="max"))
        return len(self._told) > self._distance and bool(self._told.popleft().wait()[0])

    def end(self) -> None:
        """Hear what is under way. Collective."""
        while self._told:
            self._told.popleft().wait()
