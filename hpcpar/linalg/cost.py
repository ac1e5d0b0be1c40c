"""What a grid costs: words, messages, memory, seconds; and the choice among grids. Pure."""

from dataclasses import dataclass
from math import sqrt

from hpcpar.linalg.grids import Plan, Shape
from hpcpar.linalg.machine import OVERHEAD, Machine

__all__ = ["LEAST", "Cost", "Problem", "Report", "choose", "price", "widths", "worth_joining"]

NARROW, WIDE = 64, 4096  # limits of a panel's width
LEAST = 256  # columns of a panel that are worth a product of their own
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
    bytes; seconds; panel, the width of a panel; landing, the rows of a product that are computed
    at a time before they are added.
    """

    plan: Plan
    words: int
    moved: int
    extra: int
    seconds: float
    panel: int
    landing: int


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
    problem: Problem, plan: Plan, machine: Machine, moved: int = 0, exact: bool = True
) -> Cost:
    """The cost of a plan; `moved` words have to be redistributed before.

    Without `exact` the words are those of the first and the last rank.
    """
    rows, columns, depth = (len(part) for part in plan.work(0))
    words = plan.words if exact else max(sum(plan.received(r)) for r in (0, plan.ranks - 1))
    item = problem.itemsize
    width = widths(problem, plan, machine)
    panels = _panels(plan, width, machine.shared)
    extra, landing = _memory(problem, plan, machine.shared, width, panels, moved)
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
    return Cost(plan, words, moved, extra, seconds, width, landing)


def widths(problem: Problem, plan: Plan, machine: Machine) -> int:
    """The width of a panel: what starting one costs against what the first one delays.

    K / w panels cost `overhead` each, and nothing is multiplied until the first, of w columns, has
    come: the sum is least at w = sqrt(K overhead / seconds for a column). Less, where memory is
    short. Panels that are read in place are as wide as they lie.
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
    if problem.memory is not None:
        fixed = (
            rows * columns * problem.wide * (plan.grid[2] > 1 or problem.wide > problem.itemsize)
        )
        traveling = max(1, _traveling(plan) * problem.itemsize)
        width = min(width, max(0, problem.memory - fixed) // 2 // traveling)
    return max(1, min(depth, width))


def worth_joining(shape: tuple[int, int], copied: int, panels: int) -> bool:
    """Whether to copy so many elements costs less than to add up the products of so many panels.

    A copy reads and writes; an addition reads two and writes one, for every element of the result.
    """
    return 2 * copied < 3 * (panels - 1) * shape[0] * shape[1]


def _panels(plan: Plan, width: int, shared: bool) -> int:
    """Panels of a rank: cut where the shares of the operands are, and by width."""
    depth = len(plan.work(0)[2])
    if plan.tiles or not shared:
        return -(-depth // width)
    shares = max(1 if plan.whole[0] else plan.grid[1], 1 if plan.whole[1] else plan.grid[0])
    panels = min(shares, max(1, depth // LEAST))
    rows, columns = (len(part) for part in plan.work(0)[:2])
    return 1 if worth_joining((rows, columns), _copied(plan), panels) else panels


def _copied(plan: Plan) -> int:
    """Elements to copy where operands in the plan's own layout are put together on a rank."""
    rows, columns, depth = (len(part) for part in plan.work(0))
    a = rows if plan.grid[1] > 1 and not plan.whole[0] else 0
    return depth * (a + (columns if plan.grid[0] > 1 and not plan.whole[1] else 0))


def _traveling(plan: Plan) -> int:
    """Bytes, in elements, of two panels one column wide: one is used while the next one comes."""
    rows, columns, _ = (len(part) for part in plan.work(0))
    a = rows if plan.grid[1] > 1 and not plan.whole[0] else 0
    return 2 * (a + (columns if plan.grid[0] > 1 and not plan.whole[1] else 0))


def _memory(
    problem: Problem, plan: Plan, shared: bool, width: int, panels: int, moved: int
) -> tuple[int, int]:
    """Extra bytes, and the rows of a product that are computed at a time before they are added."""
    rows, columns, depth = (len(part) for part in plan.work(0))
    item, partial = problem.itemsize, rows * columns * problem.wide
    extra = 0 if shared else _traveling(plan) * width * item
    if shared and panels == 1:
        extra += _copied(plan) * item
    if moved and shared:
        extra += (rows + columns) * min(width, depth) * item  # panels are put together
    elif moved:
        shape_m, shape_n, shape_k = plan.shape
        share = -(-(shape_m + shape_n) * shape_k // max(1, plan.ranks))
        extra += (2 * moved + share) * item  # packed, landed, and laid out
    if problem.tiles:
        return extra + (plan.steps.bit_length() + 1) * partial, rows
    if plan.grid[2] > 1 or problem.wide != item:
        extra += partial  # the sum, before it is the result
    if panels <= 1:
        return extra, rows
    landing = rows
    if problem.memory is not None and rows and columns:
        fit = (problem.memory - extra) // (columns * problem.wide)
        landing = min(rows, max(1, fit))
    return extra + landing * columns * problem.wide, landing


def choose(costs: "list[Cost]", memory: int | None) -> Cost:
    """The fastest that fits. Raises ValueError where none does, with what is needed."""
    fitting = [cost for cost in costs if memory is None or cost.extra <= memory]
    if not fitting:
        least = min(cost.extra for cost in costs)
        raise ValueError(f"memory: {memory:,} bytes a rank are too few; {least:,} are needed")
    return min(fitting, key=lambda cost: (cost.seconds, cost.words, cost.plan.ranks))
