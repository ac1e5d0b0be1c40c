"""Draws what ranks have noted: what is computed above, what travels beneath, time to the right."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noted import Compute, Entry, Start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "Bar", "draw_steps", "draw_timed"]

COLOURS = {
    "forward": "#2f6fc9", "backward": "#d96f22", "input gradient": "#d96f22",
    "weight gradient": "#3f8f5b", "update": "#3f8f5b",
}  # fmt: skip
LIGHT = {
    "sum of gradients": "#e9c46a", "weights": "#a9cdf0",
    "sum": "#e9c46a", "rows brought together": "#a9cdf0",
    "activation": "#a9cdf0", "gradient": "#e9c46a",
}  # fmt: skip
COLOURS |= LIGHT
WIDTH = 9.0  # inches of the picture
Bar = tuple[float, float, str, str]  # start, end, kind, word


def draw_steps(
    rows: Mapping[str, Sequence[Entry]],
    path: Path,
    title: str,
    label: Callable[[Start], tuple[str, str]],
    unit: str,
    elements: float,
) -> None:
    """A row for each log.

    Args:
        label: the kind (of COLOURS) and the word of a transfer.
        unit: of time; so many `elements` are sent in one, one transfer after the other.
    """
    timed = {name: _time(log, label, elements) for name, log in rows.items()}
    draw_timed(timed, path, title, unit)


def draw_timed(
    timed: Mapping[str, tuple[Sequence[Bar], Sequence[Bar]]], path: Path, title: str, unit: str
) -> None:
    """A row for each of `timed`: the bars of what is computed, and of what is sent."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    end = max(bar[1] for above, beneath in timed.values() for bar in (*above, *beneath))
    points = (WIDTH - 1.3) * 72 / end
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.66 * len(timed)), layout="constrained")
        axes = figure.add_subplot()
        for row, (above, beneath) in enumerate(timed.values()):
            axes.axhspan(row - 0.42, row + 0.42, color="#f4f4f1", linewidth=0, zorder=0)
            _bars(axes, above, row - 0.36, 0.38, points)
            _bars(axes, beneath, row + 0.05, 0.3, points)
        axes.set_ylim(len(timed) - 0.5, -0.5)
        axes.set_xlim(0, end * 1.005)
        axes.set_yticks(range(len(timed)), list(timed))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"time, in {unit}")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10, pad=20)
        used = {bar[2] for above, beneath in timed.values() for bar in (*above, *beneath)}
        axes.legend(
            handles=[Patch(color=COLOURS[kind], label=kind) for kind in COLOURS if kind in used],
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(used), frameon=False,
            borderaxespad=0.2, handlelength=1.2, columnspacing=1.4, fontsize=8.5,
        )  # fmt: skip
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def _time(
    log: Sequence[Entry], label: Callable[[Start], tuple[str, str]], elements: float
) -> tuple[list[Bar], list[Bar]]:
    """When everything happens, computed and sent."""
    now = free = 0.0
    above: list[Bar] = []
    beneath: dict[int, Bar] = {}
    for entry in log:
        if isinstance(entry, Compute):
            above.append((now, now + entry.time, entry.kind, entry.what))
            now += entry.time
        elif isinstance(entry, Start):
            begin = max(now, free)
            free = begin + entry.sent / elements
            beneath[entry.number] = (begin, free, *label(entry))
        else:
            now = max(now, beneath[entry.number][1])
    return above, list(beneath.values())


def _bars(axes: "Axes", bars: Sequence[Bar], low: float, height: float, points: float) -> None:
    for start, end, kind, word in bars:
        axes.broken_barh(
            [(start, end - start)], (low, height), facecolors=COLOURS[kind], edgecolor="white",
            linewidth=0.6,
        )  # fmt: skip
        if word and (end - start) * points >= 4.2 * len(word):
            light = kind in LIGHT
            axes.text(
                (start + end) / 2, low + height / 2, word, ha="center", va="center_baseline",
                fontsize=7.5, color="#1f2328" if light else "white",
            )  # fmt: skip
