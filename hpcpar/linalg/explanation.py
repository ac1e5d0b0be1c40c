"""`explain`: which grid a product would take, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcpar.linalg.arguments import check_operands, problem_of
from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.choice import candidate_costs, predicted_bytes
from hpcpar.linalg.cost import Cost, choose
from hpcpar.linalg.grids import Shape, family
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.problem import Problem

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """A table, a row for each grid; the first is the one that would be taken."""

    problem: Problem
    costs: Sequence[Cost]
    bound: float
    measured: str = ""

    def __str__(self) -> str:
        m, n, k = self.problem.shape
        lines = [
            f"A @ B: m {m}, n {n}, k {k} on {self.problem.ranks} ranks; "
            f"with even work on all, from one copy of A and B, some rank receives at least "
            f"{self.bound:,.0f} words",
            f"{'grid':>12}{'algorithm':>12}{'words':>15}{'/ bound':>9}"
            f"{'redistribution':>16}{'extra bytes':>15}{'seconds':>11}",
        ]
        for cost in self.costs:
            ratio = f"{cost.words / self.bound:.2f}" if self.bound else "-"
            lines.append(
                f"{cost.plan!s:>12}{family(cost.plan.grid)[0]:>12}{cost.words:>15,}{ratio:>9}"
                f"{cost.moved:>16,}{cost.extra:>15,}{cost.seconds:>11.4f}"
            )
        return "\n".join([*lines, self.measured] if self.measured else lines)


def explain(
    A: DistributedMatrix,
    B: DistributedMatrix,
    algorithm: str = "auto",
    tiles: Shape | None = None,
    memory: int | str | None = None,
    most: int = 12,
    result: DistributedMatrix | None = None,
) -> Explanation:
    """What `matmul` would do with these operands, the best first.

    Words are those that come to the rank that receives most, from operands in the grid's own
    layout; what bringing them there takes has its own column. Seconds are predicted from a short
    measurement of this machine. With `result`, a product of A and B, a last line has what it took.
    Collective; every rank gets the same.
    """
    check_operands(A, B, algorithm, tiles)
    problem = problem_of(A, B, tiles, memory)
    costs = candidate_costs(A, B, problem, algorithm)
    best = choose(costs, problem.memory)
    rest = sorted((cost for cost in costs if cost is not best), key=lambda cost: cost.seconds)
    m, n, k = problem.shape
    words = None
    if problem.memory is not None:
        words = problem.memory / problem.itemsize + (m * k + k * n + m * n) / problem.ranks
    bound = lower_bound(m, n, k, problem.ranks, words)
    measured = "" if result is None else _measured(A, B, result)
    return Explanation(problem, [best, *rest[: most - 1]], bound, measured)


def _measured(A: DistributedMatrix, B: DistributedMatrix, result: DistributedMatrix) -> str:
    """What a product took beside what was predicted of it, over all ranks."""
    report, comm = result.report, A.comm
    if report is None:
        raise ValueError("explain: result is no product: it has no report")
    took = comm.allreduce(np.array([report.seconds]), "max")[0]
    sent = int(comm.allreduce(np.array([report.bytes]))[0])
    plan = report.cost.plan
    predicted = sum(predicted_bytes(A, B, plan, rank) for rank in range(comm.size))
    return (
        f"{plan!s:>12} took {took:.4f} s (predicted {report.cost.seconds:.4f}) and moved {sent:,} "
        f"bytes among all ranks (predicted {predicted:,})"
    )
