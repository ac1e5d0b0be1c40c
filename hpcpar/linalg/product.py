"""`matmul`: the distributed product, on any grid of ranks.

    choose a grid -> bring the operands there, or read them in place -> multiply panel by panel
    -> add the layers' partial products -> bring the result to where it is wanted

What the grids are, and what they move, is in grids.py.
"""

import time
from typing import TYPE_CHECKING

from hpcpar.comm.perform import wide_dtype
from hpcpar.linalg.arguments import check_operands, check_out, problem_of
from hpcpar.linalg.choice import Into, candidate_costs
from hpcpar.linalg.cost import Report, choose
from hpcpar.linalg.layout import Grid
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.move import move
from hpcpar.linalg.multiply import Product
from hpcpar.linalg.parts import slices
from hpcpar.linalg.storage import Storage
from hpcpar.linalg.verify import Check

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["matmul"]


def matmul(
    A: DistributedMatrix,
    B: DistributedMatrix,
    algorithm: str = "auto",
    out: DistributedMatrix | None = None,
    alpha: complex = 1,
    beta: complex = 0,
    tiles: tuple[int, int, int] | None = None,
    memory: int | str | None = None,
    verify: bool = False,
    grid: Grid | None = None,
) -> DistributedMatrix:
    """alpha A @ B + beta out.

    Args:
        A, B: matrices or views of them (`A.T`, `A.H`, `A[2:5]`), of one dtype and communicator.
        algorithm: auto, data, model, summa or 3d (linalg/grids.py).
        out: where the result goes, in its own layout and dtype; memory apart from the operands'.
            Without it the result lies as the algorithm leaves it.
        beta: 0 never reads `out`.
        tiles: m, n and k of the pieces that are multiplied one by one and added by one fixed tree:
            then the bits are the same on every grid and any number of ranks.
        memory: what a rank may take beside operands and result (docs/matmul.md): bytes, or "2GB".
        verify: check the result (Freivalds 1979), and name the rank whose block is wrong.
        grid: rows, columns and layers of ranks to use, instead of the best.

    Collective. Raises ValueError and TypeError, the same on every rank, for operands that do not
    fit; ArithmeticError where `verify` finds a wrong block.
    """
    check_operands(A, B, algorithm, tiles, grid)
    check_out(A, B, out, alpha, beta)
    A.comm._compare(
        "matmul", x=f"{A!r} @ {B!r}", algorithm=algorithm, grid=grid, tiles=tiles, memory=memory,
        alpha=alpha, beta=beta, verify=verify, into=out if out is None else repr(out),
    )  # fmt: skip
    problem = problem_of(A, B, tiles, memory)
    into = Into(out, beta != 0, verify)
    cost = choose(candidate_costs(A, B, problem, algorithm, grid, into), problem.memory)
    plan = cost.plan
    direct = into.direct(plan)
    result = out if direct else None
    if result is None:
        # On its way to `out` it is not rounded yet: alpha and beta come before that.
        dtype = A.dtype if out is None else wide_dtype(A.dtype)
        result = DistributedMatrix(A.mesh, Storage.allocate(A.comm, plan.c, plan.shape[:2], dtype))
    check = Check(A, B, result if out is None else out, alpha, beta) if verify else None
    before = _traffic(A.comm)
    start = time.perf_counter()
    Product(A, B, cost, result).run(alpha if direct or out is None else 1)
    moved = _traffic(A.comm) - before
    if out is not None and not direct:
        _deliver(result, out, alpha, beta, into.aligned(plan))
        result = out
    A.comm.device.synchronize()
    seconds = time.perf_counter() - start
    result.report = Report(cost, seconds, moved)
    if check is not None:
        check.run()
    return result


def _traffic(comm: "Communicator") -> int:
    """Bytes that products have sent, or read from others, so far."""
    return sum(comm.ledger[name].bytes for name in ("matmul", "redistribute"))


def _deliver(
    result: DistributedMatrix,
    out: DistributedMatrix,
    alpha: complex,
    beta: complex,
    aligned: bool,
) -> None:
    """out = alpha result + beta out, from the layout of the one to that of the other.

    They are `aligned` if they lie alike. Where `out` is not read, nor narrower, it takes the
    result at once.
    """
    xp = out.comm.device.xp
    mine, kind = out.block(out.comm.rank), result.dtype
    total = mine
    if aligned:
        total = result.local
    else:
        if beta != 0 or mine.dtype != kind:
            total = xp.empty(mine.shape, kind)
        move(result, out.runs, total)
    if alpha != 1 and total.size:
        xp.multiply(total, kind.type(alpha), out=total)
    if beta != 0:
        for part in slices(mine.shape):
            here = mine[part].astype(kind)
            xp.multiply(here, kind.type(beta), out=here)
            xp.add(total[part], here, out=total[part])
    if total is not mine:
        mine[...] = total
    out.comm.device.synchronize()
