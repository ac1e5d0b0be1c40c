"""How a rank's part of k is cut into panels, which are multiplied one by one. Pure."""

from collections.abc import Iterable, Sequence

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layout import Runs

__all__ = ["LEAST", "cut_panel", "edges_of", "panels_by_messages", "panels_where", "worth_joining"]

LEAST = 256  # columns of a panel that are worth a product of their own


def edges_of(runs: Iterable[Runs]) -> tuple[int, ...]:
    """Where some run begins or ends."""
    return tuple(sorted({edge for part in runs for run in part for edge in (run.start, run.stop)}))


def panels_where(run: range, edges: Sequence[int]) -> list[range]:
    """A part of k cut where blocks are cut, so that panels are views; but none too narrow."""
    parts, start = [], run.start
    for edge in _inside(edges, run):
        if edge - start >= LEAST or edge == run.stop:
            parts.append(range(start, edge))
            start = edge
    if len(parts) > 1 and len(parts[-1]) < LEAST:
        parts[-2:] = [range(parts[-2].start, run.stop)]
    return [part for part in parts if part]


def panels_by_messages(plan: Plan, rank: int, width: int) -> list[range]:
    """The panels of a rank's part of k: cut where the shares of A or of B are, and by width."""
    depth = plan.work(rank)[2]
    m, n, k = plan.shape
    line = range(plan.ranks)
    held = [plan.a.runs((m, k), other)[1] for other in line]
    held += [plan.b.runs((k, n), other)[0] for other in line]
    panels, start = [], depth.start
    for edge in _inside(edges_of(held), depth) if depth else []:
        panels += cut_panel(range(start, edge), width)
        start = edge
    return panels


def cut_panel(run: range, width: int) -> list[range]:
    """A panel in panels of at most this width."""
    return [range(at, min(at + width, run.stop)) for at in range(run.start, run.stop, width)]


def worth_joining(shape: tuple[int, int], copied: int, panels: int) -> bool:
    """Whether to copy so many elements costs less than to add up the products of so many panels.

    A copy reads and writes; an addition reads two and writes one, for every element of the result.
    """
    return 2 * copied < 3 * (panels - 1) * shape[0] * shape[1]


def _inside(edges: Sequence[int], within: range) -> list[int]:
    """The edges inside `within`, and its end."""
    return [*(edge for edge in edges if within.start < edge < within.stop), within.stop]
