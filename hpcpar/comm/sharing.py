"""`Communicator.symmetric`: memory that the ranks of a node share."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hpcpar.comm.agree import agree
from hpcpar.comm.arguments import check_dtype
from hpcpar.comm.movement import Movement
from hpcpar.comm.shared_memory import HostMemory, check_memory
from hpcpar.comm.symmetric import Symmetric
from hpcpar.device import Array

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator
    from hpcpar.comm.transports.cuda_ipc import CudaMemory

__all__ = ["Sharing"]


class Sharing(Movement):
    """symmetric."""

    def symmetric(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Symmetric:
        """An array on each rank, zeroed, that every rank of the node reads and writes in place.

        Args:
            shape: of one rank's array, the same on all ranks.
            dtype: of numbers, the same on all ranks.

        Collective, and not cheap: make it once, for many calls. Raises ValueError for a shape that
        differs, MemoryError on every rank where a rank cannot get the memory or reach a peer's.
        """
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        dtype = np.dtype(dtype)
        check_dtype("symmetric", "it", dtype)
        communicator = cast("Communicator", self)
        if any(extent < 0 for extent in shape):
            raise ValueError(f"symmetric: shape is {list(shape)}; extents are not negative")
        self._compare("symmetric", x=f"{dtype.name}{list(shape)}")
        number = self._numbers["collective"].last
        wishes = agree(communicator, f"{dtype.name}{list(shape)}")
        for rank, wish in enumerate(wishes):
            if wish != wishes[0]:
                raise ValueError(f"symmetric: rank 0 asks for {wishes[0]}, rank {rank} for {wish}")
        size = prod(shape) * dtype.itemsize
        blocks = self._shared_blocks(communicator, size)
        return Symmetric(
            communicator,
            [None if block is None else block.view(dtype).reshape(shape) for block in blocks],
            number,
        )

    def _shared_blocks(self, communicator: "Communicator", size: int) -> list[Array | None]:
        """Every rank's block of `size` bytes; None for those on other nodes."""
        memory = self._shared_memory()
        try:
            return self._exchange_blocks(communicator, memory, size)
        finally:
            memory.close()
            if self.device.kind == "cuda" and not self._engine.broken:
                self.barrier()  # nobody writes over the marks that the others look for

    def _exchange_blocks(
        self, communicator: "Communicator", memory: "HostMemory | CudaMemory", size: int
    ) -> list[Array | None]:
        problem, mine, token = None, None, bytes(memory.TOKEN)
        try:
            if self.device.kind == "cpu":
                check_memory(size * self.local_size)  # all ranks of the node ask for as much
            mine, token = memory.allocate(size)
        except OSError as error:
            problem = f"{size:,} bytes of shared memory cannot be had ({error})"
        self._all_well(communicator, problem)
        tokens = self.allgather(np.frombuffer(token, np.uint8)).reshape(self.size, -1)
        nodes = self.allgather(np.array([self._place.node]))
        blocks: list[Array | None] = [None] * self.size
        for rank in np.flatnonzero(nodes == self._place.node):
            try:
                blocks[rank] = (
                    mine if rank == self.rank else memory.open(tokens[rank].tobytes(), size)
                )
            except OSError as error:
                problem = f"the shared memory of rank {rank} cannot be opened ({error})"
        self._all_well(communicator, problem)
        return blocks

    def _shared_memory(self) -> "HostMemory | CudaMemory":
        if self.device.kind == "cpu":
            return HostMemory()
        from hpcpar.comm.transports.cuda_ipc import CudaMemory

        return CudaMemory()

    def _all_well(self, communicator: "Communicator", problem: str | None) -> None:
        """Raise MemoryError on every rank if one of them has a problem."""
        for rank, text in enumerate(agree(communicator, problem)):
            if text is not None:
                raise MemoryError(f"symmetric: rank {rank}: {text}")
