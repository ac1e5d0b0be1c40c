"""The blocks of a matrix; where its ranks share a node, in memory that all of them read."""

from math import prod
from typing import TYPE_CHECKING, Any, Self

import ml_dtypes
import numpy as np

from hpcpar.comm.symmetric import Symmetric
from hpcpar.device import Array
from hpcpar.linalg.layout import Layout, length

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["DTYPES", "Storage", "check_dtype", "extents", "lie_together"]

DTYPES = tuple(
    np.dtype(kind)
    for kind in ("f8", "f4", "f2", ml_dtypes.bfloat16, "c8", "c16")
)  # fmt: skip


class Storage:
    """The blocks themselves: in memory that the ranks of a node share, where it was allocated so.

    Attributes: local, this rank's block, C-contiguous; memory, the symmetric array it lies in, or
    None.
    """

    def __init__(
        self,
        comm: "Communicator",
        layout: Layout,
        shape: tuple[int, int],
        local: Array,
        memory: Symmetric | None = None,
    ) -> None:
        self.comm, self.layout, self.shape = comm, layout, shape
        self.local, self.memory = local, memory

    @classmethod
    def allocate(
        cls, comm: "Communicator", layout: Layout, shape: tuple[int, int], dtype: Any
    ) -> Self:
        """Room for the blocks of a matrix, zeroed. Collective.

        Blocks on GPUs are ordinary arrays: shared GPU memory stays until the process ends.
        """
        mine = extents(layout, shape, comm.rank)
        if comm.size == 1 or not lie_together(comm):
            return cls(comm, layout, shape, comm.device.xp.zeros(mine, dtype))
        room = max(prod(extents(layout, shape, rank)) for rank in range(comm.size))
        memory = comm.symmetric(room, dtype)
        return cls(comm, layout, shape, memory.local[: prod(mine)].reshape(mine), memory)

    @property
    def reachable(self) -> bool:
        """Whether every rank's block can be read where it lies."""
        return self.comm.size == 1 or (self.memory is not None and self.memory.complete)

    def block(self, rank: int) -> Array:
        """The block of a rank, this one's or, if `reachable`, any."""
        if rank == self.comm.rank:
            return self.local
        assert self.memory is not None
        theirs = extents(self.layout, self.shape, rank)
        return self.memory.peer(rank)[: prod(theirs)].reshape(theirs)


def lie_together(comm: "Communicator") -> bool:
    """Whether blocks that are allocated here can be read by all ranks."""
    return comm.size == 1 or (comm.nodes == 1 and comm.device.kind == "cpu")


def check_dtype(dtype: Any) -> np.dtype:
    """Raises TypeError for a dtype that matrices do not have."""
    kind = np.dtype(dtype)
    if kind not in DTYPES:
        known = ", ".join(known.name for known in DTYPES)
        raise TypeError(f"a matrix of dtype {kind.name}: it must be one of {known}")
    return kind


def extents(layout: Layout, shape: tuple[int, int], rank: int) -> tuple[int, int]:
    """Rows and columns of a rank's block."""
    rows, columns = layout.runs(shape, rank)
    return length(rows), length(columns)
