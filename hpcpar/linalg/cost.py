"""What a grid costs: words, messages, memory, seconds; and the choice among grids. Pure."""

from dataclasses import dataclass
from math import sqrt

from hpcpar.linalg.grids import Plan, Shape
from hpcpar.linalg.machine import OVERHEAD, Machine

__all__ = ["Cost", "Problem", "choose", "price", "widths"]

NARROW, WIDE = 64, 4096  # limits of a panel's width
FULL = 256  # extent of a product at which a BLAS comes to half of its rate or more


@dataclass(frozen=True)
class Problem:
    """A product to be computed.

    Attributes: shape (m, n, k); ranks; itemsize and wide, bytes of an element and of a partial sum;
    complex; tiles; memory, bytes a rank may take beside operands and result, or None.
    """

    shape: Shape
    ranks: int
    itemsize: int
    wide: int
    complex: bool = False
    tiles: Shape | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a plan is predicted to take, on the rank that takes most.

    Attributes: plan; words received; moved, words that redistributing the operands brings; extra
    bytes; seconds; panel, the width of a panel.
    """

    plan: Plan
    words: int
    moved: int
    extra: int
    seconds: float
    panel: int


def price(problem: Problem, plan: Plan, machine: Machine, moved: int = 0) -> Cost:
    """The cost of a plan; `moved` words have to be redistributed before."""
    rows, columns, depth = (len(part) for part in plan.work(0))
    item, words = problem.itemsize, plan.words
    width = widths(problem, plan, machine)
    panels = -(-depth // width) if depth else 0
    partial = rows * columns * problem.wide
    extra = 0 if machine.shared else 2 * (rows + columns) * width * item + 2 * moved * item
    if panels > 1 or problem.tiles:
        extra += partial  # a product lands beside the sum
    if plan.grid[2] > 1 or problem.wide != item:
        extra += partial
    work = plan.flops * (4 if problem.complex else 1)
    slow = sum(FULL / 8 / max(1, extent) for extent in (rows, columns, depth))  # ends of small ones
    seconds = work / machine.flops * (1 + slow) + panels * OVERHEAD
    touched = (rows * depth + depth * columns) * item + partial * (2 + 3 * max(0, panels - 1))
    seconds += touched * machine.copy / 2
    if machine.shared:
        of_c = sum(plan.received(0)[2:])
        seconds += (words - of_c) * item * machine.copy / 2 + moved * item * machine.copy
        seconds += of_c * problem.wide / machine.bandwidth + 4 * machine.latency
    else:
        lines = plan.grid[0] + plan.grid[1] + plan.grid[2] - 3
        seconds += (words + moved) * item / machine.bandwidth
        seconds += (panels * (2 if lines else 0) + lines) * machine.latency
    return Cost(plan, words, moved, extra, seconds, width)


def widths(problem: Problem, plan: Plan, machine: Machine) -> int:
    """The width of a panel: what starting one costs against what the first one delays.

    K / w panels cost `overhead` each, and nothing is multiplied until the first, of w columns, has
    come: the sum is least at w = sqrt(K overhead / seconds for a column). Less, where memory is
    short.
    """
    rows, columns, depth = (len(part) for part in plan.work(0))
    if problem.tiles:
        return problem.tiles[2]
    if not depth:
        return 1
    if machine.shared:
        return depth
    column = (rows + columns) * problem.itemsize / machine.bandwidth
    landing = 3 * rows * columns * problem.wide * machine.copy / 2
    overhead = OVERHEAD + 2 * machine.latency + landing
    width = int(sqrt(depth * overhead / column)) if column else depth
    width = max(NARROW, min(WIDE, width))
    if problem.memory:
        width = min(width, problem.memory // 4 // max(1, (rows + columns) * problem.itemsize))
    return max(1, min(depth, width))


def choose(costs: "list[Cost]", memory: int | None) -> Cost:
    """The fastest that fits. Raises ValueError where none does, with what is needed."""
    fitting = [cost for cost in costs if memory is None or cost.extra <= memory]
    if not fitting:
        least = min(cost.extra for cost in costs)
        raise ValueError(f"memory: {memory:,} bytes a rank are too few; {least:,} are needed")
    return min(fitting, key=lambda cost: (cost.seconds, cost.words, cost.plan.ranks))
