"""The memory that a product takes on a rank beside operands and result, phase by phase. Pure.

It is what the parts of linalg allocate for arrays, on the rank that has most. With a limit, panels
become narrower, products land in fewer rows before they are added, and messages of partial sums
become shorter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layout import length
from hpcpar.linalg.panels import cut_panel, edges_of, panels_where, worth_joining
from hpcpar.linalg.parts import SLICE
from hpcpar.linalg.problem import Places, Problem
from hpcpar.schedule.exchange import AHEAD
from hpcpar.schedule.shape import roots

__all__ = ["Measures", "fit"]

MESSAGE = 1 << 20  # bytes of a message of partial sums
BUFFER = 1 << 13  # elements of an operand that NumPy buffers, where it casts or strides differ
SHORTEST = 1 << 12  # elements of it, where memory is short


@dataclass(frozen=True)
class Measures:
    """Attributes: panel, its width; landing, rows; segment, elements of a message."""

    panel: int
    landing: int
    segment: int


def fit(
    problem: Problem, plan: Plan, places: Places, shared: bool, width: int
) -> tuple[int, Measures]:
    """The memory in bytes of a plan, and its measures: as large as `problem.memory` lets them be.

    Where it cannot be kept they are those that take the least. `width` is what a panel has where
    memory does not matter.
    """
    always, aside, held, packing = _around(problem, plan, places, shared)
    extents = rows, columns, _ = _extents(plan)
    share = length(plan.c.runs(plan.shape[:2], 0)[0]) * columns
    parts = [plan.parts(rank) for rank in plan.layer(0)]

    def needed(panel: int, landing: int, segment: int) -> int:
        panels = _panels(problem, plan, places, shared, extents, panel, landing)
        words = _scratch(parts, share, segment) * problem.wide
        return always + max(aside, held + max(packing, panels, words))

    rows = max(1, rows)
    longest = max(1, MESSAGE // problem.wide)
    best, memory = needed(width, rows, longest), problem.memory
    if memory is None or best <= memory:
        return best, Measures(width, rows, longest)
    # The least need not be that of the narrowest: panels that are cut are added up.
    narrow, shortest = width if problem.tiles else 1, min(longest, SHORTEST)
    least, panel, segment = min(
        (needed(w, 1, s), -w, -s) for w in (width, narrow) for s in (longest, shortest)
    )
    panel, segment = -panel, -segment
    if least > memory:
        return least, Measures(panel, 1, segment)
    half = (least + memory) // 2
    if panel == narrow:
        panel = _most(narrow, width, lambda w: needed(w, 1, segment) <= half)
    landing = _most(1, rows, lambda n: needed(panel, n, segment) <= memory)
    if segment == shortest:
        segment = _most(shortest, longest, lambda n: needed(panel, landing, n) <= memory)
    return needed(panel, landing, segment), Measures(panel, landing, segment)


def _around(
    problem: Problem, plan: Plan, places: Places, shared: bool
) -> tuple[int, int, int, int]:
    """Bytes all the time; before or after the product; during it; to redistribute operands."""
    rows, columns, depth = _extents(plan)
    item, wide, layers = problem.itemsize, problem.wide, plan.grid[2]
    share = length(plan.c.runs(plan.shape[:2], 0)[0]) * columns
    rounded = wide != item and places.out is None  # the result, from what is added up
    held = 0
    if problem.tiles:
        held = _partials(plan.steps, layers) * rows * columns * wide
    elif layers > 1 or rounded:
        held = rows * columns * wide
    if layers > 1 and (rounded or places.strided):
        held += share * wide
    packing = 0
    if not shared:
        shares = [
            apart * height * width
            for apart, (height, width) in zip(places.apart, _shares(plan), strict=True)
        ]
        held += sum(shares) * item
        packing = sum(places.blocks) * item + sum(shares) * item
        packing += _indexed(places, max(places.blocks), plan) * item
    if wide != item or any(problem.conjugated) or places.strided:
        elements = max(rows * columns, rows * depth, depth * columns)
        held += 2 * min(BUFFER, elements) * wide
    always, checking = _verify(problem, plan, places)
    delivering = 0
    if places.out is not None:
        always += share * wide  # the result, before it comes there
        delivering = places.out * wide * (places.added and not places.aligned)
        delivering += (
            3 * min(places.out, SLICE) if places.added else 2 * min(places.out, BUFFER)
        ) * wide
        delivering += (places.out + share) * wide * places.sent
        delivering += _indexed(places, places.out, plan) * wide
    return always, max(checking, delivering), held, packing


def _panels(
    problem: Problem,
    plan: Plan,
    places: Places,
    shared: bool,
    extents: tuple[int, int, int],
    panel: int,
    landing: int,
) -> int:
    """Bytes of panels, of their copies, and of products that are to be added."""
    (*sides, depth), item, wide = extents, problem.itemsize, problem.wide
    size = 0
    if problem.tiles:
        height, across, deep = (
            min(tile, extent) for tile, extent in zip(problem.tiles, extents, strict=True)
        )
        size = (deep * (sides[1] + height) + height * across) * wide
    widening = wide != item and not problem.tiles
    if shared:
        width, several, copied = _in_place(plan, places, panel)
        for extent, copy, turned in zip(sides, copied, problem.conjugated, strict=True):
            if copy or turned or widening:
                size += extent * width * (wide if widening else item)
        size += _indexed(places, max(sides) * width, plan) * item
    else:
        width = min(panel, depth)
        lines = plan.grid[1], plan.grid[0]
        several = width < depth or max(lines) > 1
        for extent, line, whole, turned in zip(
            sides, lines, plan.whole, problem.conjugated, strict=True
        ):
            if turned or (line > 1 and not whole):
                size += extent * width * item * (1 if whole else 2)
            if widening:
                size += extent * width * wide
    if several and not problem.tiles:
        size += landing * sides[1] * wide
    return size


@lru_cache(maxsize=4096)
def _in_place(plan: Plan, places: Places, width: int) -> tuple[int, bool, tuple[bool, bool]]:
    """The widest panel, whether there are several, and whether those of A and of B are copied."""
    m, n, k = plan.shape
    depth = plan.work(0)[2]
    crowded = plan.grid[1] > 1 and not plan.whole[0], plan.grid[0] > 1 and not plan.whole[1]
    free = [apart and not whole for apart, whole in zip(places.apart, plan.whole, strict=True)]
    if any(free) or plan.tiles:  # anything may be put together
        copied = crowded[0] or free[0], crowded[1] or free[1]
        return min(width, len(depth)), not plan.tiles, copied
    widest, several, copies = 0, False, [False, False]
    shares = (
        edges_of(plan.a.runs((m, k), rank)[1] for rank in range(plan.ranks)),
        edges_of(plan.b.runs((k, n), rank)[0] for rank in range(plan.ranks)),
    )
    for rank in _corners(plan):
        rows, columns, run = plan.work(rank)
        parts = panels_where(run, places.edges)
        there = sum(
            len(other) * (crowd and _cuts(edges, run))
            for other, crowd, edges in zip((rows, columns), crowded, shares, strict=True)
        )
        if worth_joining((len(rows), len(columns)), there * len(run), len(parts)):
            parts = [run]
        parts = [panel for part in parts for panel in cut_panel(part, width)]
        widest = max(widest, *map(len, parts), 0)
        several = several or len(parts) > 1
        for i in range(2):
            copies[i] |= crowded[i] and any(_cuts(shares[i], part) for part in parts)
    return widest, several, (copies[0], copies[1])


def _corners(plan: Plan) -> list[int]:
    """On every layer those with most and with fewest rows and columns."""
    p, q, r = plan.grid
    blocks = {row * q + column for row in (0, p - 1) for column in (0, q - 1)}
    return [block * r + layer for block in sorted(blocks) for layer in range(r)]


def _cuts(edges: tuple[int, ...], run: range) -> bool:
    return any(run.start < edge < run.stop for edge in edges)


def _shares(plan: Plan) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the largest share of A, and of B."""
    m, n, k = plan.shape
    down, across = plan.a.runs((m, k), 0), plan.b.runs((k, n), 0)
    return (length(down[0]), length(down[1])), (length(across[0]), length(across[1]))


def _extents(plan: Plan) -> tuple[int, int, int]:
    """Of what the rank multiplies that has most."""
    rows, columns, depth = plan.work(0)
    return len(rows), len(columns), len(depth)


def _scratch(parts: Sequence[int], share: int, segment: int) -> int:
    """Elements in which other layers' partial products land (schedule/exchange.py).

    `parts` has how many each layer has, `share` the elements of one in a rank's share.
    """
    if len(parts) == 1:
        return 0
    landing = max(0, sum(parts) - min(parts) - 1)
    piece = min(segment, max(1, 8 * segment // max(1, sum(parts))), max(1, share))
    return landing * piece * (AHEAD if share > piece else 1)


@lru_cache(maxsize=1024)
def _partials(steps: int, layers: int) -> int:
    """Partial sums that a rank has at a time, with the one that is being made."""
    most = 0
    for run in (Plan((1, 1, steps), (1, 1, layers), (1, 1, 1)).leaves(i) for i in range(layers)):
        most = max(most, *(1 + roots(run.start, leaf, steps) for leaf in run), 0)
    return max(1, most)


def _verify(problem: Problem, plan: Plan, places: Places) -> tuple[int, int]:
    """Bytes of what `verify` compares with, and what it takes beside to make or to compare it."""
    if not places.groups:
        return 0, 0
    m, n, k = problem.shape
    kind, groups = 16 if problem.complex else 8, places.groups
    held = n * 8 + m * groups * (kind + 8)
    slice_ = 3 * max(min(SLICE, max(m * k, k * n, m * n)), m, n, k) * kind
    making = n * groups * (16 + kind) + k * groups * kind + 5 * max(m, n, k) * groups * kind
    comparing = 16 * n + m * (4 * kind + 64)
    return held, slice_ + max(making, comparing)


def _indexed(places: Places, elements: int, plan: Plan) -> int:
    """Elements that are copied by index at a time, and the index."""
    if not places.scattered:
        return 0
    extent = max(plan.shape)
    return max(min(SLICE, elements), min(extent, elements)) + 16 * extent


def _most(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """A large number that fits, the largest where those above it do not; `low` does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
