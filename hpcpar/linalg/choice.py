"""The grids that a product of two given matrices can take, each with its cost."""

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from hpcpar.comm.perform import wide_dtype
from hpcpar.linalg.cost import Cost, price
from hpcpar.linalg.grids import Plan, candidates
from hpcpar.linalg.layout import Grid, cut, length
from hpcpar.linalg.machine import measure_machine
from hpcpar.linalg.matrix import DistributedMatrix, lies_so
from hpcpar.linalg.move import moved, parts_of, sources
from hpcpar.linalg.panels import edges_of
from hpcpar.linalg.problem import Places, Problem
from hpcpar.linalg.storage import lie_together

if TYPE_CHECKING:
    from hpcpar.linalg.machine import Machine

__all__ = ["Into", "candidate_costs", "predicted_bytes"]

FEW = 24  # grids that are looked at closely
REMEMBERED = 256  # choices

_known: dict[object, list[Cost]] = {}


@dataclass(frozen=True)
class Into:
    """Where a result goes: to a matrix that lies as it comes, or to `out`, which may be `read`.

    `verify`, whether it is checked then.
    """

    out: DistributedMatrix | None = None
    read: bool = False
    verify: bool = False

    @property
    def place(self) -> object:
        """Equal where results go alike."""
        place = None if self.out is None else (self.out.place, self.sent)
        return place, self.read, self.verify

    @property
    def sent(self) -> bool:
        """Whether a result comes to another layout by messages."""
        return self.out is not None and not lie_together(self.out.comm)

    @property
    def strided(self) -> bool:
        """Whether `out` is a part of a larger matrix."""
        return self.out is not None and self.out.shape != self.out.storage.shape

    def aligned(self, plan: Plan) -> bool:
        """Whether `out` lies as the plan leaves its result."""
        out = self.out
        return out is not None and not out.turned and lies_so(out, plan.c)

    def direct(self, plan: Plan) -> bool:
        """Whether the result is computed in `out`."""
        return not self.read and self.aligned(plan)


def candidate_costs(
    A: DistributedMatrix,
    B: DistributedMatrix,
    problem: Problem,
    algorithm: str = "auto",
    grid: Grid | None = None,
    into: Into = Into(),
) -> list[Cost]:
    """Every grid of an algorithm with its cost, or the one that is given. Collective."""
    grids = (
        [grid] if grid is not None else list(candidates(problem.shape, problem.ranks, algorithm))
    )
    shared = A.reachable and B.reachable
    machine = measure_machine(A.comm, A.dtype, shared)
    key = problem, tuple(grids), machine, A.place, B.place, into.place
    if key not in _known:
        whole = _whole(A), _whole(B)
        plans = [Plan(problem.shape, grid, problem.tiles, whole) for grid in grids]
        # Exact words, and to redistribute, where they can still change the choice.
        if problem.memory is None:
            rough = [price(problem, plan, machine, exact=False) for plan in plans]
            plans = [cost.plan for cost in sorted(rough, key=lambda c: c.seconds)[:FEW]]
        while len(_known) >= REMEMBERED:
            del _known[next(iter(_known))]
        places = _places(A, B, into)
        _known[key] = [_with_moves(A, B, problem, plan, machine, into, places) for plan in plans]
    return _known[key]


def predicted_bytes(A: DistributedMatrix, B: DistributedMatrix, plan: Plan, rank: int) -> int:
    """Bytes that a product on this grid brings to a rank, with the operands where they are."""
    item, wide = A.dtype.itemsize, max(A.dtype.itemsize, 4)
    of_c = plan.received(rank)[2] * wide
    if A.reachable and B.reachable:
        rows, columns, depth = (cut(part) for part in plan.work(rank))
        if not rows or not columns:
            return of_c
        return of_c + item * (_read(A, rank, (rows, depth)) + _read(B, rank, (depth, columns)))
    size = of_c + item * sum(plan.received(rank)[:2])
    for matrix, layout, whole in ((A, plan.a, plan.whole[0]), (B, plan.b, plan.whole[1])):
        if not whole and not lies_so(matrix, layout):
            wanted = layout.runs(matrix.shape, rank)
            size += item * moved(matrix, matrix.comm.size, rank, wanted)
    return size


def _read(matrix: DistributedMatrix, rank: int, wanted: tuple) -> int:
    """Words of the wanted rows and columns that lie on other ranks."""
    words = 0
    for owner in sources(matrix, matrix.comm.size, rank):
        if owner != rank:
            down, across = parts_of(matrix.runs(owner), wanted)
            words += length(tuple(p[0] for p in down)) * length(tuple(p[0] for p in across))
    return words


def _with_moves(
    A: DistributedMatrix,
    B: DistributedMatrix,
    problem: Problem,
    plan: Plan,
    machine: "Machine",
    into: Into,
    places: Places,
) -> Cost:
    size = A.comm.size
    most = 0
    operands = (A, plan.a, plan.whole[0]), (B, plan.b, plan.whole[1])
    for rank in {*range(0, size, -(-size // 64)), plan.ranks - 1, size - 1}:
        came = 0
        for matrix, layout, whole in operands:
            if not whole and matrix.runs(rank) != layout.runs(matrix.shape, rank):
                came += moved(matrix, size, rank, layout.runs(matrix.shape, rank))
        most = max(most, came)
    apart = [not whole and not lies_so(matrix, layout) for matrix, layout, whole in operands]
    places = _of_plan(places, plan, (apart[0], apart[1]), into)
    return price(problem, plan, machine, most, exact=True, places=places)


def _places(A: DistributedMatrix, B: DistributedMatrix, into: Into) -> Places:
    """Where the matrices lie, before there is a plan."""
    ranks, out = range(A.comm.size), into.out
    matrices = [matrix for matrix in (A, B, out) if matrix is not None]
    largest = [max(prod(map(length, matrix.runs(rank))) for rank in ranks) for matrix in matrices]
    return Places(
        edges_of([A.runs(rank)[1] for rank in ranks] + [B.runs(rank)[0] for rank in ranks]),
        blocks=(largest[0], largest[1]),
        out=None if out is None else largest[2],
        added=into.read or wide_dtype(A.dtype) != A.dtype,
        sent=out is not None and into.sent,
        groups=0 if out is None else len({out.runs(rank)[1] for rank in ranks}),
        scattered=any(
            len(runs) > 1 for matrix in matrices for rank in ranks for runs in matrix.runs(rank)
        ),
    )


def _of_plan(places: Places, plan: Plan, apart: tuple[bool, bool], into: Into) -> Places:
    """What of it a plan has to do with."""
    aligned, direct = into.aligned(plan), into.direct(plan)
    groups = places.groups
    if into.verify and not groups:
        groups = len({plan.c.runs(plan.shape[:2], rank)[1] for rank in range(plan.ranks)})
    return replace(
        places,
        apart=apart,
        blocks=(places.blocks[0] * apart[0], places.blocks[1] * apart[1]),
        strided=direct and into.strided,
        out=None if direct else places.out,
        aligned=aligned,
        sent=places.sent and not aligned,
        groups=groups if into.verify else 0,
    )


def _whole(matrix: DistributedMatrix) -> bool:
    """Whether every rank has all of it."""
    everything = cut(range(matrix.shape[0])), cut(range(matrix.shape[1]))
    return all(matrix.runs(rank) == everything for rank in range(matrix.comm.size))
