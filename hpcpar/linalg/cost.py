"""What a grid costs: words, messages, memory, seconds; and the choice among grids. Pure."""

from dataclasses import dataclass
from math import sqrt

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.machine import OVERHEAD, Machine
from hpcpar.linalg.memory import fit
from hpcpar.linalg.panels import LEAST, worth_joining
from hpcpar.linalg.problem import Places, Problem

__all__ = ["Cost", "Report", "choose", "price", "widths"]

NARROW, WIDE = 64, 4096  # limits of a panel's width
FULL = 256  # extent of a product at which a BLAS comes to half of its rate or more


@dataclass(frozen=True)
class Cost:
    """What a plan is predicted to take, on the rank that takes most.

    Attributes: plan; words received; moved, words that redistributing the operands brings; extra
    bytes; seconds; panel, the width of a panel; landing, the rows of a product that are computed
    at a time before they are added; segment, the elements of a message of partial sums.
    """

    plan: Plan
    words: int
    moved: int
    extra: int
    seconds: float
    panel: int
    landing: int
    segment: int


@dataclass(frozen=True)
class Report:
    """What a product took on this rank.

    Attributes: cost, as it was predicted; seconds; bytes, those of the operands and of partial
    products that this rank has read from others or sent to them, by the ledger.
    """

    cost: Cost
    seconds: float
    bytes: int


def price(
    problem: Problem,
    plan: Plan,
    machine: Machine,
    moved: int = 0,
    exact: bool = True,
    places: Places | None = None,
) -> Cost:
    """The cost of a plan; `moved` words have to be redistributed before.

    Without `exact` the words are those of the first and the last rank.
    """
    rows, columns, depth = (len(part) for part in plan.work(0))
    words = plan.words if exact else max(sum(plan.received(r)) for r in (0, plan.ranks - 1))
    item = problem.itemsize
    width = widths(problem, plan, machine)
    extra, taken = fit(problem, plan, places or Places(), machine.shared, width)
    panels = _panels(plan, taken.panel, machine.shared)
    partial = rows * columns * problem.wide

    work = 2 * rows * columns * depth * (4 if problem.complex else 1)
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
    return Cost(plan, words, moved, extra, seconds, taken.panel, taken.landing, taken.segment)


def widths(problem: Problem, plan: Plan, machine: Machine) -> int:
    """The width of a panel: what starting one costs against what the first one delays.

    K / w panels cost `overhead` each, and nothing is multiplied until the first, of w columns, has
    come: the sum is least at w = sqrt(K overhead / seconds for a column). Panels that are read in
    place are as wide as they lie.
    """
    rows, columns, depth = (len(part) for part in plan.work(0))
    if problem.tiles:
        return problem.tiles[2]
    if not depth or machine.shared:
        return max(1, depth)
    column = (rows + columns) * problem.itemsize / machine.bandwidth
    landing = 3 * rows * columns * problem.wide * machine.copy / 2
    overhead = OVERHEAD + 2 * machine.latency + landing
    width = int(sqrt(depth * overhead / column)) if column else depth
    width = max(NARROW, min(WIDE, width))
    return max(1, min(depth, width))


def _panels(plan: Plan, width: int, shared: bool) -> int:
    """Panels of a rank: cut where the shares of the operands are, and by width."""
    depth = len(plan.work(0)[2])
    narrow = -(-depth // width)
    if plan.tiles or not shared:
        return narrow
    shares = max(1 if plan.whole[0] else plan.grid[1], 1 if plan.whole[1] else plan.grid[0])
    panels = min(shares, max(1, depth // LEAST))
    rows, columns = (len(part) for part in plan.work(0)[:2])
    return max(narrow, 1 if worth_joining((rows, columns), _copied(plan), panels) else panels)


def _copied(plan: Plan) -> int:
    """Elements to copy where operands in the plan's own layout are put together on a rank."""
    rows, columns, depth = (len(part) for part in plan.work(0))
    a = rows if plan.grid[1] > 1 and not plan.whole[0] else 0
    return depth * (a + (columns if plan.grid[0] > 1 and not plan.whole[1] else 0))


def choose(costs: "list[Cost]", memory: int | None) -> Cost:
    """The fastest that fits. Raises ValueError where none does, with what is needed."""
    fitting = [cost for cost in costs if memory is None or cost.extra <= memory]
    if not fitting:
        least = min(cost.extra for cost in costs)
        raise ValueError(f"memory: {memory:,} bytes a rank are too few; {least:,} are needed")
    return min(fitting, key=lambda cost: (cost.seconds, cost.words, cost.plan.ranks))
