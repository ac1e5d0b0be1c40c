"""Which rank holds which part of a matrix. Pure: nothing here knows of arrays or of MPI.

Every layout is a product: a rank holds some runs of rows times some runs of columns. An axis is cut
by dimensions of a grid of ranks, one inside the other, each by `numpy.array_split`'s rule; or it is
dealt out in blocks, round and round (block-cyclic, as ScaLAPACK does). An axis that is cut by no
dimension is there as a whole; a dimension that cuts neither axis has copies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from hpcpar.mesh import coordinates
from hpcpar.schedule.exchange import split

__all__ = ["LAYOUTS", "Axis", "Grid", "Layout", "Runs", "common", "cut", "length", "named"]

Grid = tuple[int, int, int]  # rows, columns, layers: the last runs fastest
Runs = tuple[range, ...]  # ascending, none empty, no two touching

LAYOUTS = ("block", "cyclic", "rows", "columns", "replicated")
DIMENSIONS = ("rows", "columns", "layers")


@dataclass(frozen=True)
class Axis:
    """How an axis of a matrix is cut.

    Attributes: over, the dimensions of the grid that cut it, outermost first; unit, the number of
    elements that stay together; cyclic, whether the units are dealt out one by one.
    """

    over: tuple[str, ...] = ()
    unit: int = 1
    cyclic: bool = False

    def runs(self, extent: int, coords: Mapping[str, int], sizes: Mapping[str, int]) -> Runs:
        """What the rank at `coords` of a grid of `sizes` has of `extent` elements."""
        units = range(-(-extent // self.unit))
        if self.cyclic:
            place = 0
            for name in self.over:
                place = place * sizes[name] + coords[name]
            dealt = units[place :: prod(sizes[name] for name in self.over)]
            runs = [range(u * self.unit, min((u + 1) * self.unit, extent)) for u in dealt]
            return _joined(runs)
        for name in self.over:
            part = split(len(units), sizes[name])[coords[name]]
            units = units[part.start : part.stop]
        start, stop = units.start * self.unit, min(units.stop * self.unit, extent)
        return (range(start, stop),) if stop > start else ()


@dataclass(frozen=True)
class Layout:
    """A way to lay a matrix out over a grid of ranks; ranks beyond the grid hold nothing."""

    name: str
    grid: Grid
    rows: Axis
    columns: Axis

    @property
    def ranks(self) -> int:
        """Places of the grid."""
        return prod(self.grid)

    @property
    def T(self) -> "Layout":
        """The layout of the transposed matrix."""
        turned = {"rows": "columns", "columns": "rows"}.get(self.name, self.name)
        return replace(self, name=turned, rows=self.columns, columns=self.rows)

    def coords(self, rank: int) -> dict[str, int]:
        """The place of a rank in the grid."""
        return coordinates(dict(zip(DIMENSIONS, self.grid, strict=True)), rank)

    def runs(self, shape: tuple[int, int], rank: int) -> tuple[Runs, Runs]:
        """The rows and the columns that a rank holds of a matrix of this shape."""
        return _runs(self, shape, rank)

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=4096)
def _runs(layout: Layout, shape: tuple[int, int], rank: int) -> tuple[Runs, Runs]:
    if rank >= layout.ranks:
        return (), ()
    coords, sizes = layout.coords(rank), dict(zip(DIMENSIONS, layout.grid, strict=True))
    rows = layout.rows.runs(shape[0], coords, sizes)
    return rows, layout.columns.runs(shape[1], coords, sizes)


def named(name: str, grid: Grid, block: int = 64) -> Layout:
    """The layout with this name over all ranks of a grid.

    block cuts the rows of the matrix over the grid's rows and its columns over the grid's columns,
    and cyclic deals them out so, in blocks of `block`; layers hold copies. rows and columns cut one
    axis over all ranks.
    """
    ranks = prod(grid)
    if name == "rows":
        return Layout(name, (ranks, 1, 1), Axis(("rows",)), Axis())
    if name == "columns":
        return Layout(name, (1, ranks, 1), Axis(), Axis(("columns",)))
    if name == "block":
        return Layout(name, grid, Axis(("rows",)), Axis(("columns",)))
    if name == "cyclic":
        if block < 1:
            raise ValueError(f"layout cyclic: block is {block}; it must be at least 1")
        rows, columns = Axis(("rows",), block, cyclic=True), Axis(("columns",), block, cyclic=True)
        return Layout(name, grid, rows, columns)
    if name == "replicated":
        return Layout(name, grid, Axis(), Axis())
    raise ValueError(f"layout is {name!r}; it must be one of {', '.join(LAYOUTS)}")


def cut(run: range) -> Runs:
    """One run as the runs of an axis: none where it is empty."""
    return (run,) if run else ()


def length(runs: Runs) -> int:
    """Elements in all runs together."""
    return sum(map(len, runs))


def common(one: Runs, other: Runs) -> list[tuple[range, int, int]]:
    """The runs that are in both; each with its place among the elements of either."""
    found, i, j, at, there = [], 0, 0, 0, 0
    while i < len(one) and j < len(other):
        a, b = one[i], other[j]
        start, stop = max(a.start, b.start), min(a.stop, b.stop)
        if start < stop:
            found.append((range(start, stop), at + start - a.start, there + start - b.start))
        if a.stop <= b.stop:
            i, at = i + 1, at + len(a)
        if b.stop <= a.stop:
            j, there = j + 1, there + len(b)
    return found


def _joined(runs: Sequence[range]) -> Runs:
    """Neighbours that touch made one."""
    joined: list[range] = []
    for run in runs:
        if joined and joined[-1].stop == run.start:
            joined[-1] = range(joined[-1].start, run.stop)
        elif run:
            joined.append(run)
    return tuple(joined)
