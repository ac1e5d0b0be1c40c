"""The update, shared: every rank updates its part of the weights, then all have all of them.

All ranks hold the same reduced gradient, and what follows is elementwise, so it does not matter for
the bits who does which part of it (ZeRO, Rajbhandari et al., arXiv:1910.02054, shares the update in
the same way to save memory; here it saves time). The norm is a sum over blocks that are added
exactly, so it can be shared too.
"""

from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.optim import Optimizer, block_count, norm_of, square_sums
from hpcpar.schedule.exchange import split
from hpcpar.schedule.ring import ring_allgather

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["SharedUpdate"]


class SharedUpdate:
    """Norm and update of a model that all ranks hold.

    Args:
        weights: all of them, flat (size,), in the order of the optimizer's parameters.
        params: the same by name, as views.
        gradients: the reduced gradient by name, the same on all ranks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: Array,
        params: dict[str, Array],
        gradients: dict[str, Array],
        comm: "Communicator",
    ) -> None:
        self._optimizer, self._weights, self._comm = optimizer, weights, comm
        self._params, self._gradients = params, gradients
        self._share = split(optimizer.size, comm.size)[comm.rank]
        self._spread = ring_allgather(comm.rank, comm.size, optimizer.size)
        # Blocks of the norm, numbered through all parameters, are dealt in the same way.
        self._blocks = {p.name: block_count(p.size) for p in optimizer.parameters}
        self._mine = split(sum(self._blocks.values()), comm.size)[comm.rank]

    def norm(self) -> float:
        """The 2-norm of the gradient, the same number on any number of ranks. Collective."""
        sums: list[float] = []
        offset = 0
        for name, count in self._blocks.items():
            first, last = max(self._mine.start - offset, 0), min(self._mine.stop - offset, count)
            if first < last:
                sums += square_sums(self._gradients[name], range(first, last))
            offset += count
        return norm_of(self._comm.allgather(np.array(sums)).tolist())

    def step(self, rate: float, scale: float) -> None:
        """One step of the optimizer with the gradient times `scale`. Collective."""
        self._optimizer.update(self._params, self._gradients, rate, scale, self._share)
        self._comm.run(self._spread, {"out": self._weights}, name="share_weights")

    def gather_state(self) -> None:
        """Bring the parts of the optimizer's state together on every rank. Collective."""
        for flat in self._optimizer.flat_state.values():
            self._comm.run(self._spread, {"out": flat}, name="share_state")
