"""What a rank adds to the gradient of a bucket, where the sum is made elsewhere."""

import numpy as np

from hpcpar.device import Array
from hpcpar.parallel.gradients import GradientSum
from hpcpar.tree import Subtotals

__all__ = ["RunRoots"]


class RunRoots(GradientSum):
    """Leaves of one run, whose roots stay here, in `roots`, until the next step begins."""

    def __init__(self, total: GradientSum, run: range) -> None:
        super().__init__(total.bucket, total.comm, total.leaves, total.arena)
        like = self.arena.xp.empty(self.bucket.size, np.float32)
        self._run, self._sums = run, Subtotals(total.leaves, like, self.arena)
        self.roots: list[Array] = []

    def begin(self) -> None:
        self.arena.give(*self.roots)
        self.roots = []

    def buffer(self, leaf: int) -> Array:
        return self._sums.buffer()

    def add(self, leaf: int, gradient: Array) -> None:
        self._sums.add(leaf, gradient)

    def end_round(self, last: bool) -> None:
        self.roots = self._sums.take(self._run)

    def finish(self) -> None:
        """They are there."""
