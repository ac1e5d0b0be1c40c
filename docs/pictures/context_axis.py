"""Who attends to what in ring attention, step by step, from arrays that really circulate."""

from pathlib import Path
from typing import Any

import numpy as np
from held import RANKS
from noted import Noted, Start

from hpcpar.nn import Arena
from hpcpar.parallel.context import Context
from hpcpar.parallel.ring import circulate
from hpcpar.parallel.spans import Spans

__all__ = ["draw_context_axis"]

SIZE, LENGTH = 4, 64
Visit = tuple[int, int | None]  # whose keys and values are there; where they go meanwhile


def draw_context_axis(folder: Path) -> None:
    """context_ring.svg: the pairs of spans, and which spans are where when they are computed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    visits = [_visits(rank) for rank in range(SIZE)]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(9, 3.3), layout="constrained")
        pairs, ring = figure.subplots(1, 2, width_ratios=(1, 1.75))
        _draw_pairs(pairs, visits)
        _draw_ring(ring, visits)
        figure.savefig(folder / "context_ring.svg", dpi=150, metadata={"Date": None})


def _visits(rank: int) -> tuple[Spans, list[Visit]]:
    """A rank's spans, and what comes by."""
    comm: Any = Noted(rank, SIZE)
    context, arena = Context(comm, LENGTH), Arena(np)
    found: list[Visit] = []

    def visit(owner: int, array: np.ndarray) -> None:
        last = comm.log[-1] if comm.log else None
        found.append(
            (owner, int(last.kind.removeprefix("to ")) if isinstance(last, Start) else None)
        )

    circulate(context, arena.take((1,), np.float32), visit, arena)
    return context.spans, found


def _pairs(spans: Spans, owner: int) -> list[tuple[int, int]]:
    """The spans of queries and of keys that meet while the keys of `owner` are there."""
    keys = spans.attended(spans.rank, owner)
    return [(mine, number) for number in keys for mine in spans.mine if number <= mine]


def _draw_pairs(axes: Any, visits: list[tuple[Spans, list[Visit]]]) -> None:
    from matplotlib.patches import Rectangle

    count = visits[0][0].count
    for spans, owners in visits:
        for step, (owner, _) in enumerate(owners):
            for row, column in _pairs(spans, owner):
                axes.add_patch(
                    Rectangle((column, row), 1, 1, color=RANKS[spans.rank], ec="white", lw=0.8)
                )
                axes.text(column + 0.5, row + 0.5, str(step), ha="center", va="center_baseline",
                          color="white", fontsize=7.5)  # fmt: skip
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    axes.set_aspect("equal")
    ticks = [number + 0.5 for number in range(count)]
    axes.set_xticks(ticks, range(count))
    axes.set_yticks(ticks, range(count))
    axes.tick_params(length=0)
    axes.set_xlabel("span of keys")
    axes.set_ylabel("span of queries")
    axes.set_title("by whom, and in which step", loc="left", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_ring(axes: Any, visits: list[tuple[Spans, list[Visit]]]) -> None:
    from matplotlib.patches import Rectangle

    for spans, owners in visits:
        rank = spans.rank
        axes.axhspan(rank - 0.46, rank + 0.46, color="#f4f4f1", linewidth=0, zorder=0)
        for step, (owner, to) in enumerate(owners):
            for place, number in enumerate(spans.of(owner)):
                used = number in spans.attended(rank, owner)
                left = step - 0.3 + 0.22 * place
                axes.add_patch(
                    Rectangle((left, rank - 0.36), 0.2, 0.4, color=RANKS[owner], lw=0,
                              alpha=1 if used else 0.35)
                )  # fmt: skip
                axes.text(left + 0.1, rank - 0.16, str(number), ha="center", va="center_baseline",
                          color="white" if used else "#1f2328", fontsize=8)  # fmt: skip
            pairs = len(_pairs(spans, owner))
            axes.text(step - 0.09, rank + 0.27, f"{pairs} pairs", ha="center", va="center",
                      fontsize=7.5, color="#1f2328")  # fmt: skip
            if to is not None:
                axes.annotate(
                    "", xy=(step + 0.68, to - 0.16), xytext=(step + 0.15, rank - 0.16),
                    arrowprops={"arrowstyle": "-|>", "color": "#30343a", "alpha": 0.6, "lw": 0.7,
                                "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
    axes.set_xlim(-0.5, SIZE - 0.5)
    axes.set_ylim(SIZE - 0.5, -0.5)
    axes.set_yticks(
        range(SIZE), [f"rank {s.rank}: {', '.join(map(str, s.mine))}" for s, _ in visits]
    )
    axes.set_xticks(range(SIZE), [f"step {step}" for step in range(SIZE)])
    axes.tick_params(length=0)
    axes.set_title("spans whose keys and values are there", loc="left", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
