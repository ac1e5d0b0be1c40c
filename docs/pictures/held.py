"""Draws who holds what: bars of a model's elements, and arrays that are cut along an axis."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path

__all__ = ["RANKS", "Part", "draw_arrays", "draw_bars"]

RANKS = ("#3b7dd8", "#e8853a", "#3f8f5b", "#9a6bc4")
EMPTY, EDGE = "#ececea", "#8a8f96"
GAP = 14  # between arrays, in elements

Runs = Sequence[range]
Part = tuple[str, tuple[int, int], int | None, Sequence[Runs]]  # name, shape, axis, runs by rank


def draw_bars(
    columns: Mapping[str, Sequence[Mapping[str, Sequence[tuple[range, bool]]]]],
    ends: Sequence[int],
    path: Path,
    words: Sequence[str] = (),
) -> None:
    """A column of ranks for each layout, a bar for each thing that a rank has.

    Args:
        columns: by layout and rank, what is held of each thing, in elements; and whether it stays.
        ends: of the layers, in the elements of a whole bar.
        words: for the layers, beneath them.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    things = list(next(iter(columns.values()))[0])
    ranks = len(next(iter(columns.values())))
    height, size = 0.8 / len(things), ends[-1]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(9, 0.5 + 0.58 * ranks), layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True)
        for axes, (name, column) in zip(panels, columns.items(), strict=True):
            for (rank, held), (n, thing) in product(enumerate(column), enumerate(things)):
                low = rank - 0.4 + n * height
                axes.broken_barh([(0, size)], (low, height * 0.84), facecolors=EMPTY)
                for run, stays in held[thing]:
                    axes.broken_barh(
                        [(run.start, len(run))], (low, height * 0.84), facecolors=RANKS[rank],
                        alpha=1 if stays else 0.35, linewidth=0,
                    )  # fmt: skip
            for end in ends[:-1]:
                axes.axvline(end, color="white", linewidth=1)
            axes.set_title(name, fontsize=9)
            axes.set_xlim(0, size)
            axes.set_ylim(ranks - 0.5, -0.5)
            middles = [(start + end) / 2 for start, end in pairwise((0, *ends))]
            axes.set_xticks(middles[: len(words)], words)
            axes.tick_params(length=0, labelsize=7.5)
            for side in axes.spines.values():
                side.set_visible(False)
        rows = list(product(range(ranks), range(len(things))))
        names = f": {things[0]}" if len(things) > 1 else ""
        panels[0].set_yticks(
            [rank - 0.4 + (n + 0.42) * height for rank, n in rows],
            [things[n] if n else f"rank {rank}{names}" for rank, n in rows],
        )
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def draw_arrays(rows: Mapping[str, Sequence[Part]], path: Path) -> None:
    """A row of arrays, each a rectangle with a colour for each rank that has a part of it.

    What all ranks have is grey; axis 0 goes down.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    ranks = max(len(runs) for parts in rows.values() for *_, runs in parts)
    highest = max(shape[0] for parts in rows.values() for _, shape, *_ in parts)
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(9, 0.7 + 1.35 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        for axes, (name, parts) in zip(panels, rows.items(), strict=True):
            left = 0
            for word, (down, across), axis, runs in parts:
                top = (highest - down) / 2
                for rank, run in ((rank, run) for rank, own in enumerate(runs) for run in own):
                    corner = (left, top + run.start) if axis == 0 else (left + run.start, top)
                    sides = (across, len(run)) if axis == 0 else (len(run), down)
                    if axis is not None:
                        axes.add_patch(Rectangle(corner, *sides, color=RANKS[rank], linewidth=0))
                fill = EMPTY if axis is None else "none"
                axes.add_patch(
                    Rectangle((left, top), across, down, facecolor=fill, edgecolor=EDGE, lw=0.8)
                )
                axes.text(left + across / 2, top - 2, word, ha="center", va="bottom", fontsize=7.5)
                left += across + GAP
            axes.set_xlim(-GAP / 2, left - GAP / 2)
            axes.set_ylim(highest + 1, -highest / 6)
            axes.set_axis_off()
            axes.set_title(name, loc="left", fontsize=9)
        handles = [Patch(color=RANKS[rank], label=f"rank {rank}") for rank in range(ranks)]
        handles.append(Patch(facecolor=EMPTY, edgecolor=EDGE, label="every rank"))
        figure.legend(
            handles=handles, loc="outside upper left", ncols=len(handles), frameon=False,
            fontsize=8.5, handlelength=1.2,
        )  # fmt: skip
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
