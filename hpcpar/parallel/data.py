"""Data parallelism: every rank has the whole model, and some leaves of every global batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.errors import UserError
from hpcpar.nn import Arena, Flat, Model
from hpcpar.tree import TreeSum

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.data import Part

__all__ = ["BatchConfig", "DataParallel"]


@dataclass
class BatchConfig:
    """How the samples of one step are grouped.

    Args:
        size: Samples in a global batch.
        micro: Samples in a micro-batch, which go through the model at once.
        leaves: Leaves of the gradient's sum: runs of consecutive micro-batches; at most size/micro.
    """

    size: int = 32
    micro: int = 2
    leaves: int = 16

    def check(self) -> None:
        """Raises `UserError` unless the global batch is a number of whole micro-batches."""
        if self.size % self.micro:
            raise UserError(
                f"--batch.size {self.size} is not a multiple of --batch.micro {self.micro}: "
                f"take a size of {self.size // self.micro * self.micro or self.micro}, or a micro "
                f"of {_largest_divisor(self.size, self.micro)}"
            )


class DataParallel:
    """Computes the mean loss of global batches, and its gradient.

    The global batch is cut into micro-batches of one shape, these into leaves (runs of consecutive
    micro-batches, added in order), and the leaves are dealt to the ranks and summed by the tree of
    tree.py. Under `reproducible` "ranks" there are as many leaves as configured, so the bits are
    the same on any number of ranks; under "off" a rank's whole share is one leaf.

    Args:
        params: views of the weights, by name, on `device`.
        part: where the samples come from.
        batch: size of the global batch and of a micro-batch, number of leaves.
    """

    def __init__(
        self,
        model: Model,
        flat: Flat,
        params: dict[str, Array],
        part: "Part",
        batch: BatchConfig,
        comm: "Communicator",
        reproducible: str = "ranks",
    ) -> None:
        batch.check()
        self._model, self._flat, self._params, self._part = model, flat, params, part
        self._device, self._batch = comm.device, batch
        self._arena = Arena(comm.device.xp)
        micros = batch.size // batch.micro
        leaves = min(comm.size if reproducible == "off" else batch.leaves, micros)
        self._leaves = np.array_split(np.arange(micros), leaves)  # micro-batch numbers of each leaf
        # The gradient of the global batch.
        self._sum = comm.device.xp.zeros(flat.uses_size, np.float32)
        self._scratch = comm.device.xp.empty_like(self._sum) if leaves < micros else None
        self._views: dict[int, dict[str, Array]] = {}  # gradient views of each buffer, by its id
        self._total = TreeSum(comm, leaves, like=self._sum)
        self._loss = TreeSum(comm, leaves, like=np.zeros(1))
        self.gradients = self._view(self._sum)

    @property
    def idle_ranks(self) -> int:
        """Ranks that have no leaf to compute."""
        return sum(not run for run in self._total.runs)

    def loss_and_gradients(self, indices: np.ndarray) -> float:
        """The mean loss of the global batch of these samples; its gradient is then in `gradients`.

        Collective. `indices` has shape (batch.size,), the same on every rank; a rank reads only its
        own samples. The loss is a float64 sum over all targets, divided by their number.
        """
        targets = self._batch.size * self._part.targets_per_sample
        micros = indices.reshape(-1, self._batch.micro)
        for leaf in self._total.mine:
            gradient = self._total.buffer()
            loss = self._leaf(gradient, micros[self._leaves[leaf]], 1.0 / targets)
            self._total.add(leaf, gradient)
            self._loss.add(leaf, np.array([loss]))
        self._total.reduce(out=self._sum)
        self._flat.fold(self.gradients)
        return float(self._loss.reduce()[0]) / targets

    def _leaf(self, gradient: Array, micros: np.ndarray, scale: float) -> float:
        """Put the gradient of consecutive micro-batches, added in order, into `gradient`."""
        loss = 0.0
        for number, samples in enumerate(micros):
            target = gradient if number == 0 else self._scratch
            inputs, wanted = (self._device.asarray(a) for a in self._part.batch(samples))
            loss += self._model.loss_and_gradients(
                self._params, self._view(target), inputs, wanted, scale, self._arena,
                self._total.comm.progress,
            )  # fmt: skip
            if number > 0:
                self._device.xp.add(gradient, target, out=gradient)
        return loss

    def _view(self, buffer: Array) -> dict[str, Array]:
        views = self._views.get(id(buffer))
        if views is None:
            views = self._views[id(buffer)] = self._flat.gradient_views(buffer)
        return views


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
