"""Pictures of schedules: ranks as rows, time from left to right, planned or as it really ran."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcpar.schedule.price import Event, Link, Network, price
from hpcpar.schedule.steps import Recv, Send, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TEXTBOOK", "draw", "unit_of"]

# For pictures without a machine in mind: a message of 10,000 bytes takes 10 times the latency.
TEXTBOOK = Network(Link(1e-6, 1e9), Link(2e-6, 2.5e8), combine=2e-10, copy=1e-10)

COLOURS = {
    "send": "#3b7dd8",
    "recv": "#8fc1f2",
    "combine": "#e8853a",
    "copy": "#e9c46a",
    "meet": "#b9b9b9",
}
INSIDE, BETWEEN = "#30343a", "#b3261e"  # arrows
WORDS = {"recv": "receive", "meet": "wait for all"}
LANES = {  # lower edge and height in a row, upwards from its middle
    "send": (0.16, 0.24),
    "recv": (-0.40, 0.24),
    "combine": (-0.14, 0.28),
    "copy": (-0.14, 0.28),
    "meet": (-0.40, 0.80),
}
ARROWS = 160  # above as many transfers arrows hide more than they show


def draw(
    schedules: Sequence[Sequence[Step]],
    path: str | Path,
    timeline: Sequence[Event] | None = None,
    *,
    title: str = "",
    nodes: Sequence[int] | None = None,
) -> None:
    """Draw the schedules of all ranks into an SVG or PNG file, by the ending of `path`.

    Args:
        schedules: the steps of every rank.
        timeline: (rank, step number, kind, start, end) in seconds, for every step that is to be
            shown: kinds are send, recv, combine, copy, meet. A measured one, or that of
            `price(..., timeline=True)`; None prices the schedules on the network TEXTBOOK.
        title: a line above the picture.
        nodes: the number of each rank's node: rows of a node stand on one ground.

    Each row has three lanes: what the rank sends above, what it adds and copies in the middle, what
    it receives below. Arrows from node to node are red. Needs matplotlib; raises
    ModuleNotFoundError where it is missing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if timeline is None:
        timeline = price(schedules, TEXTBOOK, nodes=nodes, timeline=True).timeline
    size, end = len(schedules), max((event[4] for event in timeline), default=1.0) or 1.0
    unit, factor = unit_of(end)
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(9, 1.2 + 0.52 * size), layout="constrained")
        axes = figure.add_subplot()
        _ground(axes, size, nodes)
        _bars(axes, timeline, factor)
        _arrows(axes, schedules, timeline, factor, nodes)
        axes.set_ylim(size - 0.4, -0.6)
        axes.set_xlim(0, end * factor * 1.01)
        axes.set_yticks(range(size), [f"rank {rank}" for rank in range(size)])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"time [{unit}]")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if title:
            axes.set_title(title, loc="left", fontsize=10, pad=20)
        if timeline:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=len(COLOURS), frameon=False,
                borderaxespad=0.2, handlelength=1.2, columnspacing=1.4, fontsize=8.5,
            )  # fmt: skip
        figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith("svg") else {})


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time is at least 1, and what seconds are multiplied by for it."""
    return next(
        (name, scale) for name, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
        if seconds * scale >= 1 or name == "ns"
    )  # fmt: skip


def _ground(axes: "Axes", size: int, nodes: Sequence[int] | None) -> None:
    """A stripe for each row; those of one node share a colour."""
    homes = list(range(size)) if nodes is None or len(set(nodes)) == 1 else list(nodes)
    order = {home: i for i, home in enumerate(dict.fromkeys(homes))}
    for rank in range(size):
        shade = ("#f4f4f1", "#e6ebf1")[order[homes[rank]] % 2]
        axes.axhspan(rank - 0.47, rank + 0.47, color=shade, linewidth=0, zorder=0)


def _bars(axes: "Axes", timeline: Sequence[Event], factor: float) -> None:
    for kind, colour in COLOURS.items():
        low, height = LANES[kind]
        bars: dict[int, list[tuple[float, float]]] = {}
        for rank, _, what, start, stop in timeline:
            if what == kind and stop > start:
                bars.setdefault(rank, []).append((start * factor, (stop - start) * factor))
        label = WORDS.get(kind, kind)
        for rank, spans in bars.items():
            axes.broken_barh(
                spans, (rank - low - height, height), facecolors=colour, edgecolor="white",
                linewidth=0.5, label=label, zorder=2,
            )  # fmt: skip
            label = "_"  # one entry in the legend


def _arrows(
    axes: "Axes",
    schedules: Sequence[Sequence[Step]],
    timeline: Sequence[Event],
    factor: float,
    nodes: Sequence[int] | None,
) -> None:
    """From each send to its receive, unless there are too many; red from node to node."""
    events: dict[tuple[int, int], Event] = {(event[0], event[1]): event for event in timeline}
    pairs = [
        (events[send], events[recv])
        for send, recv in _transfers(schedules)
        if send in events and recv in events
    ]
    if len(pairs) > ARROWS:
        return
    for send, recv in pairs:
        down = 1 if recv[0] > send[0] else -1
        far = nodes is not None and nodes[send[0]] != nodes[recv[0]]
        style: dict[str, Any] = {
            "arrowstyle": "-|>", "color": BETWEEN if far else INSIDE, "alpha": 0.6,
            "linewidth": 0.9 if far else 0.6, "mutation_scale": 6, "shrinkA": 0, "shrinkB": 0,
        }  # fmt: skip
        axes.annotate(
            "", xy=(recv[4] * factor, recv[0] + 0.28 - 0.12 * down),
            xytext=(send[3] * factor, send[0] - 0.28 + 0.12 * down), arrowprops=style, zorder=3,
        )  # fmt: skip


def _transfers(
    schedules: Sequence[Sequence[Step]],
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The (rank, step number) of every send and of the receive it meets."""
    sends: dict[tuple[int, int], list[int]] = {}
    receives: dict[tuple[int, int], list[int]] = {}
    for rank, steps in enumerate(schedules):
        for number, step in enumerate(steps):
            if isinstance(step, Send):
                sends.setdefault((rank, step.to), []).append(number)
            elif isinstance(step, Recv):
                receives.setdefault((step.source, rank), []).append(number)
    return [
        ((sender, send), (receiver, recv))
        for (sender, receiver), numbers in sends.items()
        for send, recv in zip(numbers, receives.get((sender, receiver), ()), strict=False)
    ]
