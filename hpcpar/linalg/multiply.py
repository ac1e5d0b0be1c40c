"""One product on one grid: panels, products, sums. What it is given is for product.py to decide."""

import time
from typing import TYPE_CHECKING

from hpcpar.comm import together
from hpcpar.comm.perform import wide_dtype
from hpcpar.linalg.cost import Cost
from hpcpar.linalg.layers import layer_steps
from hpcpar.linalg.layout import Layout
from hpcpar.linalg.matrix import DistributedMatrix, lies_so
from hpcpar.linalg.operands import InPlace, Shares, Whole
from hpcpar.linalg.panels import (
    cut_panel,
    edges_of,
    panels_by_messages,
    panels_where,
    worth_joining,
)
from hpcpar.linalg.sums import Sums

if TYPE_CHECKING:
    from hpcpar.comm.request import Request

__all__ = ["Product"]


class Product:
    """One product on one grid, into a matrix that lies as the plan's C."""

    def __init__(
        self,
        A: DistributedMatrix,
        B: DistributedMatrix,
        cost: Cost,
        result: DistributedMatrix,
    ) -> None:
        self.A, self.B, self.cost, self.plan, self.result = A, B, cost, cost.plan, result
        self.comm = A.comm
        self.rank = A.comm.rank
        self.rows, self.columns, self.depth = self.plan.work(self.rank)
        self.dtype = wide_dtype(A.dtype)
        self._failure: Exception | None = None

    def run(self, alpha: complex) -> None:
        """The product, times alpha.

        What fails on one rank fails on all when the panels are through: until then it sends and
        receives what the others wait for.
        """
        in_place = self.A.reachable and self.B.reachable
        self._finish(self._in_place() if in_place else self._by_messages(), alpha)

    def _sums(self) -> Sums:
        mine = self.result.block(self.rank)
        return Sums(self.plan, self.rank, mine, self.dtype, self.cost.landing)

    def _in_place(self) -> Sums:
        """Panels are read where they lie, between two meetings."""
        start = time.perf_counter()
        kind = self.A.dtype if self.plan.tiles else self.dtype
        a, b = InPlace(self.A, kind), InPlace(self.B, kind)
        self.comm.device.synchronize()
        self.comm.barrier()  # everybody has written
        with together(self.comm):  # at whose end everybody has read
            sums = self._sums()
            if self.rows and self.columns:
                for part in self._panels_in_place(a, b):
                    sums.add(a.panel(self.rows, part), b.panel(part, self.columns), part)
            self.comm.device.synchronize()
        size = (a.words + b.words) * self.A.dtype.itemsize
        self.comm.ledger.add("matmul", 0, size, time.perf_counter() - start)
        return sums

    def _panels_in_place(self, a: InPlace, b: InPlace) -> list[range]:
        """Cut where the blocks are cut, so that panels are views; but none too narrow.

        Where to add up their products would touch more memory than to put the operands together,
        there is one panel, if there is memory for it.
        """
        parts = [self.depth]
        if not self.plan.tiles:
            ranks = range(self.comm.size)
            held = [self.A.runs(rank)[1] for rank in ranks]
            held += [self.B.runs(rank)[0] for rank in ranks]
            fine = panels_where(self.depth, edges_of(held))
            copied = a.copied(self.rows, self.depth) + b.copied(self.depth, self.columns)
            if not worth_joining((len(self.rows), len(self.columns)), copied, len(fine)):
                parts = fine
        return [panel for part in parts for panel in cut_panel(part, self.cost.panel)]

    def _by_messages(self) -> Sums:
        """Each panel is sent by the rank that has it, one ahead of the product."""
        plan = self.plan
        a, b = self._operands()
        panels = [panels_by_messages(plan, rank, self.cost.panel) for rank in plan.layer(0)]
        mine: list[range] = []
        if self.rank < plan.ranks:  # also where there is nothing to multiply: others need its share
            mine = panels[plan.a.coords(self.rank)["layers"]]
        sums: Sums | None = None
        try:
            sums = self._sums()
        except Exception as error:
            self._failure = error
        ahead: tuple[range, Request] | None = None
        for number in range(max(map(len, panels), default=0)):
            part = mine[number] if number < len(mine) else range(0)
            steps = a.start(part, number) + b.start(part, number)  # a list: not remembered
            rooms = {"a": a.room(number), "b": b.room(number)}
            request = self.comm.irun(steps, rooms, name="matmul")
            if ahead is not None:
                self._compute(number - 1, *ahead, a, b, sums)
            ahead = part, request
        if ahead is not None:
            self._compute(number, *ahead, a, b, sums)
        with together(self.comm):
            if self._failure is not None:
                raise self._failure
        assert sums is not None
        return sums

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
        sums: Sums | None,
    ) -> None:
        request.wait()
        if not (part and self.rows and self.columns) or self._failure is not None:
            return
        assert sums is not None
        try:
            sums.add(a.panel(part, number), b.panel(part, number), part)
            self.comm.device.synchronize()  # the rooms are filled again next
        except Exception as error:
            self._failure = error

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

    def _finish(self, sums: Sums, alpha: complex) -> None:
        """The sum over all layers, times alpha, in the result."""
        partial, total, mine = sums.take(), sums.total, self.result.block(self.rank)
        if self.plan.grid[2] > 1:  # this rank's share of it, by the tree
            steps = layer_steps(self.plan, self.rank, self.cost.segment)
            buffers = {f"root{i}": root.reshape(-1) for i, root in enumerate(partial)}
            self.comm.run(steps, buffers | {"out": total.reshape(-1)}, name="matmul")
        elif partial:
            total = partial[0]
        if not self.plan.shape[2]:
            total = mine
            total[...] = 0
        if alpha != 1 and total.size:
            xp = self.comm.device.xp
            xp.multiply(total, total.dtype.type(alpha), out=total)
        if total is not mine and mine.size:
            mine[...] = total


def _lying(matrix: DistributedMatrix, layout: Layout) -> DistributedMatrix:
    """The matrix where the product wants it: itself, if it is there."""
    return matrix if lies_so(matrix, layout) else matrix.redistribute(layout)
