"""One sum, whoever computes it.

The gradient of a step is the sum of a fixed number of *leaves* by one fixed binary tree over the
leaf numbers: the tree of the next power of two, absent leaves skipped; an inner node is one
addition, left + right. Floating-point addition is not associative, so a sum has the bits of its
order; here the order is a property of the leaves, and how many ranks there are, and which of them
computed which leaf, changes nothing.

    leaves = 6, two ranks              rank 0: leaves 0..2, roots (0+1) and 2
             +                         rank 1: leaves 3..5, roots 3 and (4+5)
         ____|____
        +         |                    each rank adds what is complete inside its run,
      __|__       |                    only the roots travel, and the rest of the tree
     +     +      +                    is added slice by slice between the ranks
    0 1   2 3    4 5                   (schedule/tree.py)

Numerically a balanced tree is also the better sum: its error grows with the logarithm of the number
of leaves (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2).
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpcpar.device import Array, as_array, namespace
from hpcpar.schedule.steps import Step
from hpcpar.schedule.tree import Node, deal, subtrees, tree_allreduce

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Subtotals", "TreeSum", "tree_total"]


class Lender(Protocol):
    """Where arrays come from and go to: `hpcpar.nn.Arena`."""

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array, its values undefined."""

    def give(self, *arrays: Array) -> None:
        """Hand arrays back."""


class Subtotals:
    """The complete subtrees of one run of leaves, added up as the leaves come.

    Args:
        leaves: of the whole tree.
        like: an array of the leaves' shape, dtype and device; its values are not read.
        lender: where the arrays come from and go to; without one they are kept for the next sum.
    """

    def __init__(self, leaves: int, like: Array, lender: Lender | None = None) -> None:
        self.leaves = leaves
        self._xp, self._shape, self._dtype = namespace(like), like.shape, like.dtype
        self._sums: dict[Node, Array | None] = {}  # as large as they have grown
        self._free: list[Array] = []
        self._lender = lender

    def buffer(self) -> Array:
        """An array to compute a leaf in."""
        if self._lender is not None:
            return self._lender.take(self._shape, self._dtype)
        return self._free.pop() if self._free else self._xp.empty(self._shape, self._dtype)

    def free(self, *arrays: Array) -> None:
        """Arrays that can be used again."""
        if self._lender is not None:
            self._lender.give(*arrays)
        else:
            self._free += arrays

    def add(self, leaf: int, array: Array | None) -> None:
        """Put a leaf in its place, and add up every pair of siblings it completes.

        The array is written: it belongs to the sum from now on. None is a leaf without a value: its
        sibling goes on as it is.
        """
        self.add_root(Node(0, leaf), array)

    def add_root(self, node: Node, array: Array | None) -> None:
        """The same with a complete subtree, which was added up elsewhere."""
        while (width := 1 << node.level) < self.leaves:
            left, right = node.index & ~1, node.index | 1
            if right * width < self.leaves:  # the sibling exists: wait for it, or add it
                other = Node(node.level, node.index ^ 1)
                if other not in self._sums:
                    break
                sibling = self._sums.pop(other)
                pair = (array, sibling) if node.index == left else (sibling, array)
                array = self._added(*pair)
            node = Node(node.level + 1, node.index // 2)
        self._sums[node] = array

    def take(self, run: range) -> list[Array]:
        """The roots of a run of which all leaves were added, left to right; they are forgotten.

        A subtree without any value has no root.
        """
        found = [self._sums.pop(node) for node in subtrees(run.start, run.stop, self.leaves)]
        return [root for root in found if root is not None]

    def _added(self, first: Array | None, second: Array | None) -> Array | None:
        if first is None or second is None:
            return second if first is None else first
        self._write(first, second)
        self.free(second)
        return first

    def _write(self, first: Array, second: Array) -> None:
        """first += second."""
        self._xp.add(first, second, out=first)


def tree_total(values: np.ndarray) -> float:
    """The sum of numbers by the tree over their places, as `TreeSum` adds arrays."""
    total = Subtotals(len(values), np.zeros(1))
    for leaf, value in enumerate(values):
        total.add(leaf, np.array([value], dtype=np.float64))
    return float(total.take(range(len(values)))[0][0])


class TreeSum:
    """The sum of `leaves` arrays spread over the ranks: the same bits on any number of them.

    >>> total = TreeSum(comm, leaves=16, like=gradient)
    >>> for leaf in total.mine:          # this rank's run of leaf numbers
    ...     total.add(leaf, gradient_of(leaf))
    >>> total.reduce(out=gradient)       # the same bits on every rank, and for every comm.size

    Args:
        comm: the ranks that share the work.
        leaves: number of leaves in the tree. Ranks beyond it have no leaf of their own.
        like: an array of the leaves' shape, dtype and device (NumPy, CuPy, or any other through
            DLPack). Its values are not read.

    Memory: a partial sum for each complete subtree of the run, at most log2(leaves) + 1 arrays when
    the leaves are added in order.
    """

    def __init__(self, comm: "Communicator", leaves: int = 16, *, like: object) -> None:
        if leaves < 1:
            raise ValueError(f"leaves is {leaves}; a sum has at least one")
        template = as_array(like)
        self._xp = namespace(template)
        self._shape, self._dtype = template.shape, template.dtype
        self.comm = comm
        self.leaves = leaves
        self.runs = deal(leaves, comm.size)
        self._missing = set(self.mine)
        self._sums = Subtotals(leaves, template)
        self._lent: dict[int, Array] = {}  # buffers handed out by buffer(), by id

    @property
    def mine(self) -> range:
        """The numbers of the leaves that this rank adds."""
        return self.runs[self.comm.rank]

    def buffer(self) -> Array:
        """An array to compute a leaf in; `add` then takes it as it is, without a copy."""
        array = self._sums.buffer()
        self._lent[id(array)] = array
        return array

    def add(self, leaf: int, array: object) -> None:
        """Add one leaf of this rank's, in any order; `array` may be changed afterwards.

        Raises ValueError for a leaf of another rank, one added before, and a wrong shape or dtype.
        """
        if leaf not in self._missing:
            owned = f"this rank's leaves are {self.mine.start} to {self.mine.stop - 1}"
            raise ValueError(
                f"leaf {leaf} was added before"
                if leaf in self.mine
                else f"no leaf {leaf} here: {owned}"
            )
        own = self._lent.pop(id(array), None)
        if own is None:
            given = as_array(array)
            if given.shape != self._shape or given.dtype != self._dtype:
                raise ValueError(
                    f"leaf {leaf} is {given.dtype}{list(given.shape)}, "
                    f"the sum is {self._dtype}{list(self._shape)}"
                )
            own = self._sums.buffer()
            own[...] = given
        self._missing.remove(leaf)
        self._sums.add(leaf, own)

    def reduce(self, out: object | None = None) -> Array:
        """The sum of all leaves, on every rank; the object is then empty, ready for the next sum.

        Collective. The result goes to `out`, or to an array that belongs to the caller. Raises
        ValueError while leaves of this rank are missing.
        """
        if self._missing:
            raise ValueError(
                f"leaves {sorted(self._missing)} of rank {self.comm.rank} were not added"
            )
        result = self._xp.empty(self._shape, self._dtype) if out is None else as_array(out)
        if result.shape != self._shape or result.dtype != self._dtype:
            raise ValueError(
                f"out is {result.dtype}{list(result.shape)}, "
                f"the sum is {self._dtype}{list(self._shape)}"
            )
        roots = self._sums.take(self.mine)
        buffers = {f"root{i}": root.reshape(-1) for i, root in enumerate(roots)}
        buffers["out"] = result.reshape(-1)
        self.comm.run(self._schedule(), buffers, name="tree_sum")
        self._sums.free(*roots)
        self._missing = set(self.mine)
        return result

    def _schedule(self) -> Sequence[Step]:
        count = prod(self._shape)
        return tree_allreduce(
            self.comm.rank, self.comm.size, count, self.runs, self.leaves, nodes=self.comm.node_map
        )
