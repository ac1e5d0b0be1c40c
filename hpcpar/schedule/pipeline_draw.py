"""Pictures of pipelines: ranks as rows, micro-batches as numbered boxes, bubbles blank."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpar.schedule.draw import unit_of
from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
)
from hpcpar.schedule.pipeline_price import PipelineEvent, price_pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_pipeline"]

KINDS: dict[type[Action], tuple[str, tuple[int, int, int]]] = {  # word and colour
    Forward: ("forward", (0x2F, 0x6F, 0xC9)),
    Backward: ("backward", (0xD9, 0x6F, 0x22)),
    BackwardInput: ("input gradient", (0xD9, 0x6F, 0x22)),
    BackwardWeight: ("weight gradient", (0x3F, 0x8F, 0x5B)),
}
WIDTH = 9.0  # inches of the picture
DIGIT = 4.6  # points that a digit needs


def draw_pipeline(
    schedules: Sequence[Sequence[Action]],
    path: str | Path,
    timeline: Sequence[PipelineEvent] | None = None,
    title: str = "",
) -> None:
    """Draw the schedules of all ranks into an SVG or PNG file, by the ending of `path`.

    Args:
        schedules: the actions of every rank.
        timeline: (rank, action, start, end) in seconds, that of `price_pipeline` or a measured
            one. None prices the schedules: a backward takes twice a forward, transfers nothing.
        title: a line above the picture.

    Compute actions are boxes with the number of their micro-batch, where it fits. Of several chunks
    the later ones are lighter. Needs matplotlib; raises ModuleNotFoundError where it is missing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ranks = len(schedules)
    stages = 1 + max((action.stage for steps in schedules for action in steps), default=-1)
    chunks = max(1, stages // max(1, ranks))
    planned = timeline is None
    if timeline is None:
        timeline = price_pipeline(schedules, 1 / chunks, 2 / chunks).timeline
    events = [event for event in timeline if type(event[1]) in KINDS]
    end = max((end for *_, end in events), default=1.0) or 1.0
    unit, factor = ("", 1.0) if planned else unit_of(end)
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.42 * ranks), layout="constrained")
        axes = figure.add_subplot()
        _boxes(axes, events, ranks, chunks, factor)
        _numbers(axes, events, ranks, factor, end)
        axes.set_ylim(ranks - 0.45, -0.55)
        axes.set_xlim(0, end * factor)
        axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("time, in forwards of a rank's layers" if planned else f"time [{unit}]")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if title:
            axes.set_title(title, loc="left", fontsize=10, pad=20)
        if events:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False,
                borderaxespad=0.2, handlelength=1.2, columnspacing=1.4, fontsize=8.5,
            )  # fmt: skip
        figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith("svg") else {})


def _boxes(
    axes: "Axes", events: Sequence[PipelineEvent], ranks: int, chunks: int, factor: float
) -> None:
    for kind, (word, colour) in KINDS.items():
        for chunk in range(chunks):
            light = 0.6 * chunk / max(1, chunks - 1)
            shade = tuple((part + (255 - part) * light) / 255 for part in colour)
            label = word if chunks == 1 else f"{word}, chunk {chunk}"
            for rank in range(ranks):
                spans = [
                    (start * factor, (end - start) * factor) for where, action, start, end in events
                    if where == rank and type(action) is kind and action.stage // ranks == chunk
                ]  # fmt: skip
                if not spans:
                    continue
                axes.broken_barh(
                    spans, (rank - 0.4, 0.8), facecolors=shade, edgecolor="white",
                    linewidth=0.6, label=label,
                )  # fmt: skip
                label = "_"  # one entry in the legend


def _numbers(
    axes: "Axes", events: Sequence[PipelineEvent], ranks: int, factor: float, end: float
) -> None:
    """The micro-batches' numbers, in boxes that are wide enough."""
    points = (WIDTH - 0.8) * 72 / end  # of a second
    for rank, action, start, stop in events:
        if (stop - start) * points < DIGIT * len(str(action.micro)):
            continue
        axes.text(
            (start + stop) / 2 * factor, rank, str(action.micro), fontsize=7.5, ha="center",
            va="center", color="white" if action.stage < ranks else "#1f2328",
        )  # fmt: skip
