"""One product on one grid: panels, products, sums. What it is given is for product.py to decide."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpcpar.comm import together
from hpcpar.comm.perform import wide_dtype
from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array
from hpcpar.linalg.cost import LEAST, Cost, worth_joining
from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layers import layer_steps
from hpcpar.linalg.layout import Layout
from hpcpar.linalg.local import add_product, product, tile_products
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.operands import InPlace, Shares, Whole, cuts
from hpcpar.tree import Subtotals

if TYPE_CHECKING:
    from hpcpar.comm.request import Request

__all__ = ["Product"]

Multiply = Callable[[Array, Array, range], None]


class Product:
    """One product on one grid, into a matrix that lies as the plan's C."""

    def __init__(
        self,
        A: DistributedMatrix,
        B: DistributedMatrix,
        cost: Cost,
        result: DistributedMatrix,
    ) -> None:
        plan = cost.plan
        self.A, self.B, self.plan, self.result = A, B, plan, result
        self.width, self.landing = cost.panel, cost.landing
        self.comm = A.comm
        self.rank = A.comm.rank
        self.rows, self.columns, self.depth = plan.work(self.rank)
        self.xp = A.comm.device.xp
        self.dtype = wide_dtype(A.dtype)

    def run(self, alpha: complex) -> None:
        """The product, times alpha."""
        target = self._target()
        sums = Subtotals(max(1, self.plan.steps), target) if self.plan.tiles else None
        multiply = self._adding(target) if sums is None else self._by_tiles(sums, target)
        if self.A.reachable and self.B.reachable:
            self._in_place(multiply)
        else:
            self._by_messages(multiply)
        partial = [target]
        if sums is not None:
            busy = self.depth and target.size
            partial = sums.take(self.plan.leaves(self.rank)) if busy else []
        if not self.depth:
            target[...] = 0
        total = self._add_layers(partial) if self.plan.grid[2] > 1 else partial[:1]
        self._finish(total[0] if total else target, alpha)

    def _target(self) -> Array:
        """Where this rank's block is added up: the result itself where that can be."""
        mine = self.result.block(self.rank)
        shape = len(self.rows), len(self.columns)
        fits = mine.shape == shape and mine.dtype == self.dtype and self.plan.tiles is None
        return mine if fits else self.xp.empty(shape, self.dtype)

    def _adding(self, target: Array) -> Multiply:
        """Add a panel's product to the sum; the first one is the sum."""
        scratch: list[Array] = []
        begun = False

        def multiply(a: Array, b: Array, _: range) -> None:
            nonlocal begun
            if not begun:
                product(a, b, target)
            else:
                if not scratch:
                    rows = min(self.landing, len(target))
                    scratch.append(self.xp.empty((rows, target.shape[1]), target.dtype))
                add_product(a, b, target, scratch[0])
            begun = True

        return multiply

    def _by_tiles(self, sums: Subtotals, like: Array) -> Multiply:
        """Each panel is a leaf of the tree, and made of products of tiles."""
        assert self.plan.tiles is not None
        height, width, deep = self.plan.tiles

        def multiply(a: Array, b: Array, part: range) -> None:
            leaf = sums.buffer()
            tile_products(a, b, leaf, height, width)
            sums.add(part.start // deep, leaf)

        return multiply

    def _in_place(self, multiply: Multiply) -> None:
        """Panels are read where they lie, between two meetings; what fails here fails on all."""
        start = time.perf_counter()
        a, b = InPlace(self.A), InPlace(self.B)
        self.comm.device.synchronize()
        self.comm.barrier()  # everybody has written
        with together(self.comm):  # at whose end everybody has read
            if self.rows and self.columns:
                for part in self._panels_in_place(a, b):
                    multiply(a.panel(self.rows, part), b.panel(part, self.columns), part)
            self.comm.device.synchronize()
        size = (a.words + b.words) * self.A.dtype.itemsize
        self.comm.ledger.add("matmul", 0, size, time.perf_counter() - start)

    def _panels_in_place(self, a: InPlace, b: InPlace) -> list[range]:
        """Cut where the blocks are cut, so that panels are views; but none too narrow.

        Where to add up their products would touch more memory than to put the operands together,
        there is one panel.
        """
        if self.plan.tiles:
            return _cut(self.depth, self.width)
        held = [self.A.runs(rank)[1] for rank in range(self.comm.size)]
        held += [self.B.runs(rank)[0] for rank in range(self.comm.size)]
        parts = _wide_enough(self.depth, cuts(held, self.depth))
        copied = a.copied(self.rows, self.depth) + b.copied(self.depth, self.columns)
        shape = len(self.rows), len(self.columns)
        return [self.depth] if worth_joining(shape, copied, len(parts)) else parts

    def _by_messages(self, multiply: Multiply) -> None:
        """Each panel is sent by the rank that has it, one ahead of the product."""
        plan = self.plan
        a, b = self._operands()
        panels = [_panels(plan, rank, self.width) for rank in plan.layer(0)]
        mine: list[range] = []
        if self.rank < plan.ranks:  # also where there is nothing to multiply: others need its share
            mine = panels[plan.a.coords(self.rank)["layers"]]
        ahead: tuple[range, Request] | None = None
        for number in range(max(map(len, panels), default=0)):
            part = mine[number] if number < len(mine) else range(0)
            steps = a.start(part, number) + b.start(part, number)  # a list: not remembered
            rooms = {"a": a.room(number), "b": b.room(number)}
            request = self.comm.irun(steps, rooms, name="matmul")
            if ahead is not None:
                self._compute(number - 1, *ahead, a, b, multiply)
            ahead = part, request
        if ahead is not None:
            self._compute(number, *ahead, a, b, multiply)

    def _operands(self) -> "tuple[Shares | Whole, Shares | Whole]":
        """A and B where the plan wants them."""
        plan = self.plan
        work = [plan.work(rank) for rank in range(plan.ranks)]
        takers = [rank for rank, (rows, columns, _) in enumerate(work) if rows and columns]
        a: Shares | Whole = Whole(self.A, self.rows, 1)
        b: Shares | Whole = Whole(self.B, self.columns, 0)
        if not plan.whole[0]:
            a = Shares(_lying(self.A, plan.a), 1, self._line("columns"), takers, "a")
        if not plan.whole[1]:
            b = Shares(_lying(self.B, plan.b), 0, self._line("rows"), takers, "b")
        return a, b

    def _compute(
        self,
        number: int,
        part: range,
        request: "Request",
        a: "Shares | Whole",
        b: "Shares | Whole",
        multiply: Multiply,
    ) -> None:
        request.wait()
        if part and self.rows and self.columns:
            multiply(a.panel(part, number), b.panel(part, number), part)
            self.comm.device.synchronize()  # the rooms are filled again next

    def _line(self, along: str) -> list[int]:
        """The ranks that differ from this one along one dimension of the grid only."""
        if self.rank >= self.plan.ranks:
            return [self.rank]
        mine = self.plan.a.coords(self.rank)
        return [
            other
            for other in range(self.plan.ranks)
            if all(
                here == there or name == along
                for (name, here), there in zip(
                    mine.items(), self.plan.a.coords(other).values(), strict=True
                )
            )
        ]

    def _add_layers(self, partial: Sequence[Array]) -> list[Array]:
        """This rank's share of the sum of all layers' partial products, by the tree."""
        like = self.dtype
        share, _ = self.plan.c.runs(self.plan.shape[:2], self.rank)
        rows = len(share[0]) if share else 0
        landing = self.xp.empty((rows, len(self.columns)), like)
        segment = max(1, SEGMENT_BYTES // like.itemsize)
        steps = layer_steps(self.plan, self.rank, segment)
        buffers = {f"root{i}": root.reshape(-1) for i, root in enumerate(partial)}
        buffers["out"] = landing.reshape(-1)
        self.comm.run(steps, buffers, name="matmul")
        if not self.depth and not steps:
            landing[...] = 0
        return [landing]

    def _finish(self, total: Array, alpha: complex) -> None:
        mine = self.result.block(self.rank)
        if alpha != 1:
            total = self.xp.multiply(total, self.dtype.type(alpha))
        if total is not mine and mine.size:
            mine[...] = total


def _lying(matrix: DistributedMatrix, layout: Layout) -> DistributedMatrix:
    """The matrix where the product wants it: itself, if it is there."""
    ranks = range(matrix.comm.size)
    if all(matrix.runs(rank) == layout.runs(matrix.shape, rank) for rank in ranks):
        return matrix
    return matrix.redistribute(layout)


def _panels(plan: Plan, rank: int, width: int) -> list[range]:
    """The panels of a rank's part of k: cut where the shares of A or of B are, and by width."""
    depth = plan.work(rank)[2]
    m, n, k = plan.shape
    line = range(plan.ranks)
    held = [plan.a.runs((m, k), other)[1] for other in line]
    held += [plan.b.runs((k, n), other)[0] for other in line]
    panels, start = [], depth.start
    for edge in cuts(held, depth) if depth else []:
        panels += _cut(range(start, edge), width)
        start = edge
    return panels


def _cut(run: range, width: int) -> list[range]:
    return [range(at, min(at + width, run.stop)) for at in range(run.start, run.stop, width)]


def _wide_enough(run: range, edges: Sequence[int]) -> list[range]:
    """The run cut at edges, none of its parts narrower than `LEAST` if that can be."""
    parts, start = [], run.start
    for edge in edges:
        if edge - start >= LEAST or edge == run.stop:
            parts.append(range(start, edge))
            start = edge
    if len(parts) > 1 and len(parts[-1]) < LEAST:
        parts[-2:] = [range(parts[-2].start, run.stop)]
    return [part for part in parts if part]
