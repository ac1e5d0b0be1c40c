"""The grids that a product of two given matrices can take, each with its cost."""

from typing import TYPE_CHECKING

from hpcpar.linalg.cost import Cost, Problem, price
from hpcpar.linalg.grids import Plan, candidates
from hpcpar.linalg.layout import Grid, cut, length
from hpcpar.linalg.machine import measure_machine
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.move import moved, parts_of, sources

if TYPE_CHECKING:
    from hpcpar.linalg.machine import Machine

__all__ = ["candidate_costs", "predicted_bytes"]

FEW = 24  # grids that are looked at closely
REMEMBERED = 256  # choices

_known: dict[object, list[Cost]] = {}


def candidate_costs(
    A: DistributedMatrix,
    B: DistributedMatrix,
    problem: Problem,
    algorithm: str = "auto",
    grid: Grid | None = None,
) -> list[Cost]:
    """Every grid of an algorithm with its cost, or the one that is given. Collective."""
    grids = (
        [grid] if grid is not None else list(candidates(problem.shape, problem.ranks, algorithm))
    )
    shared = A.reachable and B.reachable
    machine = measure_machine(A.comm, A.dtype, shared)
    key = problem, tuple(grids), machine, A.place, B.place
    if key not in _known:
        whole = _whole(A), _whole(B)
        plans = [Plan(problem.shape, grid, problem.tiles, whole) for grid in grids]
        rough = sorted(
            (price(problem, plan, machine, exact=False) for plan in plans), key=lambda c: c.seconds
        )
        # Exact words, and to redistribute, where they can still change the choice.
        few = rough if problem.memory is not None else rough[:FEW]
        while len(_known) >= REMEMBERED:
            del _known[next(iter(_known))]
        _known[key] = [_with_moves(A, B, problem, cost.plan, machine) for cost in few]
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
        wanted = layout.runs(matrix.shape, rank)
        if not whole and any(
            matrix.runs(other) != layout.runs(matrix.shape, other)
            for other in range(matrix.comm.size)
        ):
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
    A: DistributedMatrix, B: DistributedMatrix, problem: Problem, plan: Plan, machine: "Machine"
) -> Cost:
    size = A.comm.size
    most = 0
    for rank in {*range(0, size, -(-size // 64)), plan.ranks - 1, size - 1}:
        came = 0
        for matrix, layout, whole in ((A, plan.a, plan.whole[0]), (B, plan.b, plan.whole[1])):
            if not whole and matrix.runs(rank) != layout.runs(matrix.shape, rank):
                came += moved(matrix, size, rank, layout.runs(matrix.shape, rank))
        most = max(most, came)
    return price(problem, plan, machine, most, exact=True)


def _whole(matrix: DistributedMatrix) -> bool:
    """Whether every rank has all of it."""
    everything = cut(range(matrix.shape[0])), cut(range(matrix.shape[1]))
    return all(matrix.runs(rank) == everything for rank in range(matrix.comm.size))
