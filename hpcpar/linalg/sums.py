"""Where a rank adds up the products of its panels: as they come, or by the tree over tiles."""

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.linalg.grids import Plan
from hpcpar.linalg.local import add_product, product, tile_products
from hpcpar.tree import Subtotals

__all__ = ["Sums"]


class Sums:
    """The partial products of a rank.

    Args:
        plan: the product.
        rank: this one.
        mine: its block of the result. It is written at once where that can be.
        dtype: that products are added up in.
        landing: rows of a product that are computed at a time before they are added.

    Attributes: total, where the whole sum is to be: `mine` or, where that is narrower or a part of
    a larger block, an array like it.
    """

    def __init__(self, plan: Plan, rank: int, mine: Array, dtype: np.dtype, landing: int) -> None:
        self._plan, self._rank, self._landing = plan, rank, landing
        self._xp = xp = namespace(mine)
        rows, columns, self._depth = plan.work(rank)
        shape = len(rows), len(columns)
        layers = plan.grid[2] > 1
        self._tree: Subtotals | None = None
        self._target: Array | None = None
        self._scratch: Array | None = None
        self._begun = False
        self.total = mine
        fits = mine.dtype == dtype and (mine.flags.c_contiguous or not layers)
        if not fits and (layers or not plan.tiles):
            self.total = xp.empty(mine.shape, dtype)
        if plan.tiles:
            like = xp.broadcast_to(xp.empty((1, 1), dtype), shape)
            self._tree = Subtotals(max(1, plan.steps), like)
        elif not layers:
            self._target = self.total
        elif self._depth:
            self._target = xp.empty(shape, dtype)

    def add(self, a: Array, b: Array, part: range) -> None:
        """Add the product of the panels `part` of k."""
        if self._tree is not None:
            assert self._plan.tiles is not None
            height, width, deep = self._plan.tiles
            leaf = self._tree.buffer()
            tile_products(a, b, leaf, height, width)
            self._tree.add(part.start // deep, leaf)
            return
        target = self._target
        assert target is not None
        if not self._begun:
            product(a, b, target)
        else:
            if self._scratch is None:
                rows = min(self._landing, len(target))
                self._scratch = self._xp.empty((rows, target.shape[1]), target.dtype)
            add_product(a, b, target, self._scratch)
        self._begun = True

    def take(self) -> list[Array]:
        """The partial products: one or, with tiles, the roots of this rank's part of the tree.

        None of them where there is nothing to multiply.
        """
        done: list[Array] = []
        self._scratch = None
        if self._tree is not None:
            rows, columns, _ = self._plan.work(self._rank)
            if self._depth and rows and columns:
                done = self._tree.take(self._plan.leaves(self._rank))
        elif self._depth:
            done = [self._target]
        return done
