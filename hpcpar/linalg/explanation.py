"""`explain`: which grid a product would take, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpcpar.linalg.arguments import check_operands, problem_of
from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.choice import candidate_costs
from hpcpar.linalg.cost import Cost, Problem, choose
from hpcpar.linalg.grids import Shape, family
from hpcpar.linalg.matrix import DistributedMatrix

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """A table, a row for each grid; the first is the one that would be taken."""

    problem: Problem
    costs: Sequence[Cost]
    bound: float

    def __str__(self) -> str:
        m, n, k = self.problem.shape
        lines = [
            f"A @ B: m {m}, n {n}, k {k} on {self.problem.ranks} ranks; "
            f"no rank can do with fewer than {self.bound:,.0f} words received",
            f"{'grid':>12}{'algorithm':>12}{'words':>15}{'/ bound':>9}"
            f"{'redistribution':>16}{'extra bytes':>15}{'seconds':>11}",
        ]
        for cost in self.costs:
            ratio = f"{cost.words / self.bound:.2f}" if self.bound else "-"
            lines.append(
                f"{cost.plan!s:>12}{family(cost.plan.grid)[0]:>12}{cost.words:>15,}{ratio:>9}"
                f"{cost.moved:>16,}{cost.extra:>15,}{cost.seconds:>11.4f}"
            )
        return "\n".join(lines)


def explain(
    A: DistributedMatrix,
    B: DistributedMatrix,
    algorithm: str = "auto",
    tiles: Shape | None = None,
    memory: int | str | None = None,
    most: int = 12,
) -> Explanation:
    """What `matmul` would do with these operands, the best first.

    Words are those that come to the rank that receives most, from operands in the grid's own
    layout; what bringing them there takes has its own column. Seconds are predicted from a short
    measurement of this machine. Collective; every rank gets the same.
    """
    check_operands(A, B, algorithm, tiles)
    problem = problem_of(A, B, tiles, memory)
    costs = candidate_costs(A, B, problem, algorithm)
    best = choose(costs, problem.memory)
    rest = sorted((cost for cost in costs if cost is not best), key=lambda cost: cost.seconds)
    words = None if problem.memory is None else problem.memory / problem.itemsize
    bound = lower_bound(*problem.shape, problem.ranks, words)
    return Explanation(problem, [best, *rest[: most - 1]], bound)
