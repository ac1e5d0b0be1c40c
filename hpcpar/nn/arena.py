"""Arrays that are used again: a training step after the first few allocates nothing."""

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

import numpy as np

from hpcpar.device import Array

import os
from math import prod
SLAB = 64 << 20
HUGE_PAGE = 2 << 20
LINE = int(os.environ.get("LINE","4096"))
__all__ = ["Arena"]


class Arena:
    """A free list of arrays, by shape and dtype.

    `take` lends an array, `give` hands it back. Training takes the same shapes in the same order in
    every step, so that after the first step nothing is allocated, and a page of memory is seldom
    touched by the kernel again. (An allocation of some MB is a fresh mapping each time otherwise, and
    its page faults cost as much as the arithmetic.)
    """

    def __init__(self, xp: ModuleType = np):
        self.xp = xp
        self.bytes = 0  # allocated so far
        self._free: dict[Hashable, list[Array]] = {}
        self._lent: set[int] = set()  # id of every array that is out; its holder keeps it alive
        self._constants: dict[Hashable, Array] = {}
        self._slab = np.empty(0, np.uint8)
        self._used = 0

    @property
    def lent(self) -> int:
        """Arrays that were taken and not given back."""
        return len(self._lent)

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape and dtype, C order, its values undefined."""
        free = self._free.get((shape, dtype))
        if free:
            array = free.pop()
        else:
            array = self._allocate(shape, np.dtype(dtype))
            self.bytes += array.nbytes
        self._lent.add(id(array))
        return array

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        if self.xp is not np:  # CuPy's memory pool does as much
            return self.xp.empty(shape, dtype)
        size = prod(shape) * dtype.itemsize
        if self._slab.nbytes - self._used < size:
            self._slab = np.empty(max(SLAB, size + HUGE_PAGE), np.uint8)
            self._used = -self._slab.ctypes.data % HUGE_PAGE
        start = self._used
        self._used += -(-size // LINE) * LINE + int(os.environ.get("STAG","0"))
        return self._slab[start : start + size].view(dtype).reshape(shape)

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
            elif id(item) not in self._lent:
                raise ValueError(f"an array of shape {item.shape} was given back but is not lent")
            else:
                self._lent.remove(id(item))
                self._free.setdefault((item.shape, item.dtype), []).append(item)

    def constant(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """What `make` returned when this key was first asked for. Nobody may write to it."""
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]
