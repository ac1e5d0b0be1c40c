"""Workers that train by themselves, and meet every so many steps (DiLoCo).

Between two meetings a worker makes ordinary steps with its own samples. At a meeting the mean of
what the workers have moved is the gradient of an outer optimizer, SGD with Nesterov momentum, for
the weights of the meeting before; everybody goes on from the result. (Douillard et al.,
arXiv:2311.08105; McMahan et al., arXiv:1602.05629, for plain averaging.)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpcpar.device import Array
from hpcpar.optim import OptimConfig, Optimizer, clip_scale, make_optimizer
from hpcpar.parallel.buckets import Piece
from hpcpar.sync.config import SyncConfig
from hpcpar.sync.keys import put, taken
from hpcpar.sync.own_gradient import own_gradient, own_norm
from hpcpar.tree import TreeSum

if TYPE_CHECKING:
    import numpy as np

    from hpcpar.data import Part
    from hpcpar.parallel import ParallelModel

__all__ = ["LocalTraining"]

OUTER = "outer_momentum"


class _Held(Optimizer):
    """This worker's slice of what is saved: the state of its own optimizer, and the outer one's."""

    def __init__(self, kinds: tuple[str, ...], *arguments: Any) -> None:
        self.kinds = kinds
        super().__init__(*arguments)

    def _update_block(self, *arguments: Any) -> None:
        raise NotImplementedError("slices are saved, not updated")


class LocalTraining:
    """A worker's.

    >>> losses, norm = local.step(part, indices, rate)
    >>> local.meet()            # collective: all have the same weights afterwards
    """

    def __init__(self, model: "ParallelModel", optim: OptimConfig, sync: SyncConfig) -> None:
        self._model, self._optim, self._sync = model, optim, sync
        holdings, xp = model.holdings, model.comm.device.xp
        self._pieces: list[tuple[int, Piece]] = [
            (number, p) for number in holdings.updated for p in holdings.buckets[number].pieces()
        ]
        self._own = make_optimizer(optim, [piece for _, piece in self._pieces], xp)
        slices = model.update.optimizer.parameters
        model.update.optimizer = _Held((*self._own.kinds, OUTER), optim, slices, xp)
        self._anchor: Array = xp.empty(self._own.size, "float32")  # the weights of the last meeting
        self._momentum: Array = xp.zeros(self._own.size, "float32")
        self._total = TreeSum(model.comm, model.comm.size, like=self._anchor)

    def begin(self) -> None:
        """The model's weights, and its saved state, are what the workers begin with. Collective."""
        for place, weights in self._weights():
            self._anchor[place] = weights
        held, comm = self._model.update.optimizer, self._model.comm
        if not held.steps:  # there is no state yet
            return
        for kind, flat in self._flats():
            places = [place for rank in range(comm.size) for place in self._slices(rank)]
            put(flat, places, comm.allgather(held.flat_state[kind]))
        self._own.steps = held.steps

    def step(
        self, part: "Part", indices: "np.ndarray", rate: float
    ) -> tuple[dict[int, float], float]:
        """A step with this worker's samples of a batch; its micro-batches' losses, and its norm."""
        roots, losses = self._model.roots(part, indices)
        factor = self._model.micros_a_step / len(losses)
        with self._model.timeline.on("compute", "update"):
            totals = own_gradient(self._model, roots)
            norm = own_norm(self._model, totals) * factor
            gradients = {p.name: totals[n][p.at : p.at + p.size] for n, p in self._pieces}
            params = {
                p.name: w for (_, p), (_, w) in zip(self._pieces, self._weights(), strict=True)
            }
            scale = factor * clip_scale(norm, self._optim.clip)
            self._own.update(params, gradients, rate, scale)
        return losses, norm

    def meet(self) -> None:
        """One step of the outer optimizer, with what all workers have moved. Collective."""
        moved = self._total.buffer()
        for place, weights in self._weights():
            moved[place] = self._anchor[place] - weights
        mean = self._mean(moved)
        beta = self._sync.outer_momentum
        self._momentum *= beta
        self._momentum += mean
        self._anchor -= self._sync.outer_lr * (mean + beta * self._momentum)
        for place, weights in self._weights():
            weights[...] = self._anchor[place]

    def hold(self, step: int, last: bool) -> None:
        """Ready to be saved after a meeting: all workers go on with the mean of their states.

        So a run that is resumed, on any number of workers, has what the one that was not has. After
        the last step nobody goes on, and each has its own state for its slice. Collective.
        """
        held = self._model.update.optimizer
        for kind, flat in self._flats():
            if kind != OUTER and not last:
                own = self._total.buffer()
                own[...] = flat
                flat[...] = self._mean(own)
            held.flat_state[kind][...] = taken(flat, list(self._slices(self._model.comm.rank)))
        held.steps = step

    def _mean(self, own: Array) -> Array:
        """Over the workers, by the tree."""
        comm = self._model.comm
        with self._model.timeline.on("communication", "meeting"):
            self._total.add(comm.rank, own)
            return self._total.reduce() / comm.size

    def _flats(self) -> list[tuple[str, Array]]:
        return [*self._own.flat_state.items(), (OUTER, self._momentum)]

    def _weights(self) -> Iterator[tuple[slice, Array]]:
        """Every piece's place in a flat array, and its weights."""
        at = 0
        for number, piece in self._pieces:
            flat = self._model.weights.flat[number]
            yield slice(at, at + piece.size), flat[piece.at : piece.at + piece.size]
            at += piece.size

    def _slices(self, rank: int) -> Iterator[slice]:
        """The places of a worker's slices in a flat array."""
        at, holdings = 0, self._model.holdings
        for number in holdings.updated:
            bucket = holdings.buckets[number]
            run = bucket.slices[rank]
            if run:
                yield slice(at + run.start, at + run.stop)
            at += bucket.size
