"""Arrays that are used again: a training step after the first few allocates nothing."""

from collections.abc import Callable, Hashable
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from hpcpar.device import Array

__all__ = ["Arena"]

SLAB = 32 << 20  # bytes
HUGE_PAGE = 2 << 20
LINE = 64  # bytes of a cache line


class Arena:
    """A free list of arrays, by shape and dtype.

    `take` lends an array, `give` hands it back. Training takes the same shapes in every step, so
    that after the first one nothing is allocated. (An allocation of some MB would be a fresh
    mapping each time, and its page faults cost as much as the arithmetic.)
    """

    def __init__(self, xp: ModuleType = np):
        self.xp = xp
        self.bytes = 0  # allocated so far
        self._free: dict[Hashable, list[Array]] = {}
        self._lent: dict[int, Array] = {}  # by id; kept alive, so that no other has the same id
        self._constants: dict[Hashable, Array] = {}
        self._slab = np.empty(0, np.uint8)  # what new arrays are cut from
        self._used = 0  # bytes of it

    @property
    def lent(self) -> int:
        """Arrays that were taken and not given back."""
        return len(self._lent)

    def has_lent(self, array: Array) -> bool:
        """Whether it was taken, and not given back."""
        return self._lent.get(id(array)) is array

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape and dtype, C order, its values undefined."""
        dtype = np.dtype(dtype)  # np.float32 equals it, but has another hash
        free = self._free.get((shape, dtype))
        if free:
            array = free.pop()
        else:
            array = self._allocate(shape, dtype)
            self.bytes += array.nbytes
        self._lent[id(array)] = array
        return array

    def copy(self, array: Array, dtype: Any = None) -> Array:
        """A copy of `array`, as `dtype` if one is named."""
        copy = self.take(array.shape, dtype or array.dtype)
        copy[...] = array
        return copy

    def give(self, *saved: Any) -> None:
        """Hand back arrays; a tuple or a list stands for all that is in it.

        Raises `ValueError` for an array that is not out: given twice, never taken, or a view.
        """
        for item in saved:
            if isinstance(item, (tuple, list)):
                self.give(*item)
            elif self._lent.pop(id(item), None) is None:
                raise ValueError(f"an array of shape {item.shape} was given back but is not lent")
            else:
                self._free.setdefault((item.shape, item.dtype), []).append(item)

    def constant(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """What `make` returned when this key was first asked for. Nobody may write to it."""
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """On a CPU, cut from a slab: NumPy asks for huge pages for large arrays only."""
        if self.xp is not np:
            return self.xp.empty(shape, dtype)
        size = prod(shape) * dtype.itemsize
        if size > self._slab.nbytes - self._used:
            self._slab = np.empty(max(SLAB, size + HUGE_PAGE), np.uint8)
            self._used = -self._slab.ctypes.data % HUGE_PAGE
        start = self._used
        self._used += -(-size // LINE) * LINE
        return self._slab[start : start + size].view(dtype).reshape(shape)
