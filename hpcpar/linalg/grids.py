"""The grids a product can be computed on, and what each of them moves. Pure.

Every algorithm here is one: the ranks stand on a grid of rows x columns x layers, which cuts m, n
and k. Rank (i, j, l) multiplies block (i, l) of A and block (l, j) of B; before, the ranks that
need the same block of an operand hold a share of it each and gather it, and afterwards the partial
products of the layers are added, each layer its share of the rows (Agarwal et al. 1995; Solomonik
and Demmel 2011; grids by Al Daas et al. 2022). The classical algorithms are grids with a one in
them::

    data     P x 1 x 1     A by rows, and all of B
    model    1 x P x 1     B by columns, and all of A
             1 x 1 x P     both by k, and the partial products added
    summa    p x q x 1     C stays; panels of A along the rows, of B along the columns
             p x 1 x q     A stays; panels of B, and C is added
             1 x p x q     B stays; panels of A, and C is added
    3d       p x q x r
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from hpcpar.linalg.layout import Axis, Grid, Layout, Runs, length
from hpcpar.schedule.shape import roots

__all__ = ["ALGORITHMS", "Plan", "candidates", "family"]

ALGORITHMS = ("auto", "data", "model", "summa", "3d")

Shape = tuple[int, int, int]  # m, n, k


@dataclass(frozen=True)
class Plan:
    """A product of m x k and k x n on a grid of ranks.

    Attributes: shape (m, n, k); grid; tiles, of m, n and k: no cut falls inside one; whole, whether
    every rank has all of A, and of B, so that none of it moves.
    """

    shape: Shape
    grid: Grid
    tiles: Shape | None = None
    whole: tuple[bool, bool] = (False, False)

    @property
    def units(self) -> Shape:
        """What of m, n and k stays together."""
        return self.tiles or (1, 1, 1)

    @property
    def ranks(self) -> int:
        """Ranks that have work."""
        return prod(self.grid)

    @property
    def a(self) -> Layout:
        """How A lies before: block (i, l), a share of its columns on each rank of a row."""
        m, _, k = self.units
        return self._layout(Axis(("rows",), m), Axis(("layers", "columns"), k))

    @property
    def b(self) -> Layout:
        """How B lies before: block (l, j), a share of its rows on each rank of a column."""
        _, n, k = self.units
        return self._layout(Axis(("layers", "rows"), k), Axis(("columns",), n))

    @property
    def c(self) -> Layout:
        """How C lies afterwards: block (i, j), a share of its rows on each layer."""
        m, n, _ = self.units
        return self._layout(Axis(("rows", "layers"), m), Axis(("columns",), n))

    def work(self, rank: int) -> tuple[range, range, range]:
        """The rows, the columns and the part of k that a rank multiplies; empty when it is idle."""
        m, n, k = self.units
        block = Layout("", self.grid, Axis(("rows",), m), Axis(("columns",), n))
        inner = Layout("", self.grid, Axis(("layers",), k), Axis())
        rows, columns = block.runs(self.shape[:2], rank)
        depth, _ = inner.runs((self.shape[2], 1), rank)
        return _only(rows), _only(columns), _only(depth)

    def layer(self, rank: int) -> list[int]:
        """The ranks that have partial products of the same block of C, in the order of k."""
        coords = self.a.coords(rank)
        row = coords["rows"] * self.grid[1] + coords["columns"]
        return [row * self.grid[2] + layer for layer in range(self.grid[2])]

    def received(self, rank: int) -> tuple[int, int, int]:
        """Words of A, of B and of partial C that come to a rank, from operands in `a` and `b`."""
        if rank >= self.ranks:
            return 0, 0, 0
        m, n, k = self.shape
        rows, columns, depth = self.work(rank)
        if not rows or not columns:
            return 0, 0, 0
        own_a, own_b = self.a.runs((m, k), rank)[1], self.b.runs((k, n), rank)[0]
        of_a = 0 if self.whole[0] else len(rows) * (len(depth) - length(own_a))
        of_b = 0 if self.whole[1] else (len(depth) - length(own_b)) * len(columns)
        share, _ = self.c.runs((m, n), rank)
        if self.tiles is None:  # the first layers have something, one partial product each
            others = min(self.grid[2], k) - (len(depth) > 0)
        else:
            others = sum(self.parts(other) for other in self.layer(rank) if other != rank)
        return of_a, of_b, others * length(share) * len(columns)

    def parts(self, rank: int) -> int:
        """Partial products that a rank has of its block of C: one, or its roots of the tree."""
        depth = self.work(rank)[2]
        if not depth:
            return 0
        if self.tiles is None:
            return 1
        run = self.leaves(rank)
        return roots(run.start, run.stop, self.steps)

    @property
    def steps(self) -> int:
        """Tiles along k."""
        return -(-self.shape[2] // self.units[2])

    def leaves(self, rank: int) -> range:
        """The numbers of the tiles along k that a rank multiplies."""
        depth, unit = self.work(rank)[2], self.units[2]
        return range(depth.start // unit, -(-depth.stop // unit))

    @property
    def words(self) -> int:
        """The most words that any rank receives."""
        return max(sum(self.received(rank)) for rank in self._corners())

    def _corners(self) -> list[int]:
        """Ranks among which is one that receives most.

        Along a dimension of the grid the lengths of what is cut fall once, from one element (or
        tile) more to none, and the last may be shorter: so it does to look on both sides of there.
        """
        if self.ranks <= 64:
            return list(range(self.ranks))
        p, q, r = self.grid
        m, n, k = (-(-extent // u) for extent, u in zip(self.shape, self.units, strict=True))
        deep, tall = {k // r, -(-k // r)}, {m // p, -(-m // p)}
        ends = (
            _ends(p, {m % p, *(depth % p for depth in deep)}),
            _ends(q, {n % q, *(depth % q for depth in deep)}),
            _ends(r, {k % r, *(height % r for height in tall)}),
        )
        return [(i * q + j) * r + layer for i, j, layer in product(*ends)]

    def _layout(self, rows: Axis, columns: Axis) -> Layout:
        return Layout(_name(self.grid, rows, columns), self.grid, rows, columns)

    def __str__(self) -> str:
        return " x ".join(map(str, self.grid))


def candidates(shape: Shape, ranks: int, algorithm: str = "auto") -> Iterator[Grid]:
    """The grids of an algorithm; for auto also those that leave a few ranks idle."""
    fewest = ranks if algorithm != "auto" else 1 if ranks <= 64 else ranks - ranks // 16
    for used in range(ranks, fewest - 1, -1):
        for grid in _factored(used):
            if algorithm == "auto" or algorithm in family(grid):
                yield grid


def family(grid: Grid) -> tuple[str, ...]:
    """The names of the algorithms that a grid belongs to, the simplest first."""
    p, q, r = grid
    names = []
    if q == r == 1:
        names.append("data")
    if p == 1 and (q == 1 or r == 1):
        names.append("model")
    if 1 in grid:
        names.append("summa")
    return (*names, "3d")


@lru_cache(maxsize=512)
def _factored(count: int) -> tuple[Grid, ...]:
    divisors = [d for d in range(1, count + 1) if count % d == 0]
    return tuple(
        (p, q, count // p // q) for p in divisors for q in divisors if count % (p * q) == 0
    )


def _ends(size: int, falls: set[int]) -> list[int]:
    """Places in a dimension: the first, the last, and those beside each fall."""
    places = {0, size - 1, size - 2} | {fall + side for fall in falls for side in (-1, 0)}
    return sorted(place for place in places if 0 <= place < size)


def _only(runs: Runs) -> range:
    return runs[0] if runs else range(0)


def _name(grid: Grid, rows: Axis, columns: Axis) -> str:
    """The plain name of a layout, where it has one."""
    sizes = dict(zip(("rows", "columns", "layers"), grid, strict=True))
    down = prod(sizes[name] for name in rows.over)
    across = prod(sizes[name] for name in columns.over)
    if rows.unit == columns.unit == 1 and down * across == prod(grid):
        if across == 1:
            return "rows"
        if down == 1:
            return "columns"
        if grid[2] == 1:
            return "block"
    return "product"
