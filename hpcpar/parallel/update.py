"""The norm of the gradient and the update, each rank for its own slices.

What follows the sum of the gradients is elementwise, so it does not matter for the bits who does
which part of it (ZeRO, Rajbhandari et al., arXiv:1910.02054). The norm is a sum over blocks that
are added exactly, so it can be shared too.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Parameter
from hpcpar.optim import OptimConfig, Optimizer, exact_parts, make_optimizer, norm_of
from hpcpar.parallel.blocks import block_sums
from hpcpar.parallel.buckets import Piece
from hpcpar.parallel.gradients import GradientSum
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.timeline import Timeline
from hpcpar.parallel.weights import Weights

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Update"]


class Update:
    """Norm and update.

    Args:
        config: of the optimizer.
        sums: of the gradients of all buckets.
        comm: all ranks of the model.
        pipeline: the ranks of the pipeline axis; None for one.
        counts: whether a parameter counts in the norm here: once, of all ranks that have it.

    Attributes: optimizer, of this rank's `pieces`, lists by bucket.
    """

    def __init__(
        self,
        config: OptimConfig,
        holdings: Holdings,
        weights: Weights,
        sums: Sequence[GradientSum],
        comm: "Communicator",
        pipeline: "Communicator | None",
        timeline: Timeline,
        counts: Callable[[Parameter], bool],
    ) -> None:
        self._holdings, self._weights, self._sums = holdings, weights, sums
        self._comm, self._pipeline, self._timeline = comm, pipeline, timeline
        self._data_rank, self._counts = weights.rank, counts
        self.pieces: dict[int, list[Piece]] = {
            number: holdings.buckets[number].pieces(sums[number].run) for number in holdings.updated
        }
        every = [piece for pieces in self.pieces.values() for piece in pieces]
        self.optimizer: Optimizer = make_optimizer(config, every, weights.xp)
        self._landed: dict[int, Array] = {}  # gradients of tied uses that come from other ranks

    @property
    def landed_bytes(self) -> int:
        """Of the gradients that come from other ranks."""
        return sum(int(array.nbytes) for array in self._landed.values())

    def norm(self) -> float:
        """The 2-norm of the gradient, the same number on any layout. Collective."""
        found: list[float] = []
        with self._timeline.on("compute", "norm"):
            for number in self._holdings.updated:
                total, bucket = self._sums[number], self._holdings.buckets[number]
                for piece in bucket.pieces(bucket.slices[self._data_rank]):
                    if not self._counts(piece.parameter):
                        continue
                    start = piece.at - total.run.start
                    gradient = total.result[start : start + piece.size]
                    found += block_sums(piece.parameter, gradient, piece.run)
            parts = np.array(exact_parts(found))
        with self._timeline.on("communication", "norm"):
            return norm_of(self._comm.allgather(parts).tolist())

    def fold(self) -> None:
        """Add the gradients of tied uses to their parameters'. Collective."""
        for number, tie in enumerate(self._holdings.ties):
            total = self._sums[tie.bucket].result
            if tie.home == tie.away:
                self._weights.xp.add(total, self._sums[tie.other].result, out=total)
            elif self._pipeline is not None and self._pipeline.rank == tie.away:
                self._pipeline.send(total, tie.home, self._tag(number))
            elif self._pipeline is not None:
                theirs = self._landed.get(number)
                if theirs is None:
                    theirs = self._landed[number] = self._weights.xp.empty_like(total)
                self._pipeline.recv(theirs, tie.away, self._tag(number))
                self._weights.xp.add(total, theirs, out=total)

    def step(self, rate: float, scale: float) -> None:
        """One step of the optimizer with the gradient times `scale`. Collective."""
        with self._timeline.on("compute", "update"):
            params = {piece.name: weights for piece, weights, _ in self.updated()}
            gradients = {piece.name: gradient for piece, _, gradient in self.updated()}
            self.optimizer.update(params, gradients, rate, scale)
        with self._timeline.on("communication", "share weights"):
            self.share()

    def updated(self) -> Iterator[tuple[Piece, Array, Array]]:
        """All that this rank updates: a piece, its weights and, after a sum, its gradient."""
        for number, pieces in self.pieces.items():
            run, total = self._sums[number].run, self._sums[number].result
            own = self._weights.part(number, run)
            for piece in pieces:
                place = slice(piece.at - run.start, piece.at - run.start + piece.size)
                yield piece, own[place], total[place]

    def share(self) -> None:
        """What changed here goes to the ranks that hold it too. Collective."""
        if not all(total.whole for total in self._sums):
            self._weights.updated()
        for number, tie in enumerate(self._holdings.ties):
            if tie.home == tie.away or self._pipeline is None:
                continue
            flat = self._weights.flat[tie.bucket]
            if self._pipeline.rank == tie.home:
                self._pipeline.send(flat, tie.away, self._tag(number))
            else:
                self._pipeline.recv(flat, tie.home, self._tag(number))

    def _tag(self, tie: int) -> int:
        return 2 * self._holdings.count + 2 * tie
