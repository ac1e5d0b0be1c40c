"""Draws who holds what of a product, and what moves: matplotlib (the extra `plot`) is needed."""

from pathlib import Path
from typing import Any

from hpcpar.errors import UserError
from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layout import Layout

__all__ = ["draw_plan"]


def draw_plan(plan: Plan, path: Path | str, title: str = "", rank: int = 0) -> None:
    """A, B and C with a color for each rank that holds a part, and what `rank` needs framed.

    The parts of the frame that are not in the rank's own color come from others. Raises `UserError`
    where matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'hpcpar[plot]'") from None
    matplotlib.use("svg")
    from matplotlib import pyplot

    m, n, k = plan.shape
    rows, columns, depth = plan.work(rank)
    colors = pyplot.get_cmap("tab10" if plan.ranks <= 10 else "tab20")
    figure, axes = pyplot.subplots(1, 3, figsize=(7.6, 3.1), layout="constrained")
    parts = (
        ("A", plan.a, (m, k), (rows, depth)),
        ("B", plan.b, (k, n), (depth, columns)),
        ("C", plan.c, (m, n), (rows, columns)),
    )
    for axis, (name, layout, shape, needed) in zip(axes, parts, strict=True):
        _blocks(axis, layout, shape, plan.ranks, colors)
        _frame(axis, *needed, color="black", fill=False, linewidth=2.5)
        axis.set_xlim(0, shape[1])
        axis.set_ylim(shape[0], 0)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{name}: {shape[0]} x {shape[1]}", fontsize=9)
    of_a, of_b, of_c = plan.received(rank)
    words = f"rank {rank} receives {of_a:,} words of A, {of_b:,} of B, {of_c:,} of partial C"
    figure.suptitle(f"{title or f'grid {plan}'}: {words}", fontsize=9)
    with matplotlib.rc_context({"svg.hashsalt": "hpcpar"}):  # the same file again
        figure.savefig(path, metadata={"Date": None} if str(path).endswith("svg") else {})
    pyplot.close(figure)


def _blocks(axis: Any, layout: Layout, shape: tuple[int, int], ranks: int, colors: Any) -> None:
    for owner in range(ranks):
        for row in layout.runs(shape, owner)[0]:
            for column in layout.runs(shape, owner)[1]:
                _frame(axis, row, column, color=colors(owner), alpha=0.55, linewidth=0)
                middle = column.start + len(column) / 2, row.start + len(row) / 2
                axis.text(*middle, str(owner), ha="center", va="center", fontsize=8)


def _frame(axis: Any, rows: range, columns: range, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    corner = columns.start, rows.start
    axis.add_patch(Rectangle(corner, len(columns), len(rows), **style))
