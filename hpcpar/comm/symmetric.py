"""Symmetric arrays: one array a rank, of one shape, which all ranks of a node can read and write.

>>> s = comm.symmetric((1024, 1024), np.float32)
>>> s.local[...] = comm.rank
>>> s.sync()                                  # everybody has written
>>> s.peer((comm.rank + 1) % comm.size)[0, 0]
>>> comm.allreduce(s, out=s)                  # reads and writes the others' where they lie
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.device import Array, address, namespace

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Symmetric", "local"]


class Symmetric:
    """Made by `Communicator.symmetric`; the memory lives as long as an array of it does.

    Attributes: local (this rank's array), shape, dtype, comm. `s[2:5]` is a part of it on every
    rank: like every call with a symmetric array it means the same on all ranks, so take the same
    part everywhere.
    """

    def __init__(
        self, comm: "Communicator", arrays: Sequence[Array | None], number: int, start: int = 0
    ) -> None:
        local = arrays[comm.rank]
        assert local is not None
        self.comm, self.local = comm, local
        self._number, self._start = number, start  # which call made it; its first byte there
        self._arrays = tuple(arrays)
        self.bindings: dict[Any, Any] = {}  # programs bound to this memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every rank's array."""
        return self.local.shape

    @property
    def dtype(self) -> np.dtype:
        """Of every rank's array."""
        return self.local.dtype

    @property
    def complete(self) -> bool:
        """Whether this rank can reach every rank's array: all are on its node."""
        return all(array is not None for array in self._arrays)

    @property
    def place(self) -> str:
        """Which memory it is, the same on all ranks; no two arrays of `comm` share it."""
        return f"#{self._number}" + (f" from byte {self._start}" if self._start else "")

    def peer(self, rank: int) -> Array:
        """The array of another rank of this node, where it lies.

        Raises ValueError for a rank on another node, or one that does not exist.
        """
        if not 0 <= rank < len(self._arrays):
            raise ValueError(f"there is no rank {rank}; the ranks are 0 to {len(self._arrays) - 1}")
        array = self._arrays[rank]
        if array is None:
            raise ValueError(f"rank {rank} is on another node: its memory cannot be reached")
        return array

    def sync(self) -> None:
        """What any rank wrote before, every rank can read afterwards. Collective."""
        self.comm.device.synchronize()
        self.comm.barrier()

    def reshape(self, *shape: int) -> "Symmetric":
        """The same memory in another shape."""
        return self._each(lambda array: array.reshape(*shape))

    def flats(self) -> list[Array | None]:
        """Every rank's array, flat; None where it cannot be reached."""
        return [None if array is None else array.reshape(-1) for array in self._arrays]

    def __getitem__(self, index: Any) -> "Symmetric":
        part = self.local[index]
        own = isinstance(part, type(self.local)) and part.flags.c_contiguous
        if not own or (part.size and not namespace(part).may_share_memory(part, self.local)):
            raise ValueError("a part of a symmetric array must be C-contiguous: slice along axis 0")
        return self._each(lambda array: array[index])

    def __len__(self) -> int:
        return len(self.local)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.local, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<Symmetric: {self.dtype}{list(self.shape)} on each of {self.comm.size} ranks>"

    def _each(self, part: Callable[[Array], Array]) -> "Symmetric":
        arrays = [None if array is None else part(array) for array in self._arrays]
        mine = arrays[self.comm.rank]
        assert mine is not None
        start = self._start + (address(mine) - address(self.local) if mine.size else 0)
        return Symmetric(self.comm, arrays, self._number, start)


def local(thing: Any) -> Any:
    """The local array of a symmetric one; anything else as it is."""
    return thing.local if isinstance(thing, Symmetric) else thing
