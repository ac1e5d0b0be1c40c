"""A run for a terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hpcpar.tools.monitor.reading import Row, Seen, duration, number, state, words

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["WIDTH", "draw", "sparkline"]

WIDTH = 100  # columns, at least, of what is printed once
CURVE = 40  # losses in the small curve
BAR = 20
MOST_RANKS, MOST_EVENTS = 16, 6
COLORS = {"running": "green", "done": "green", "silent": "yellow", "stopped": "red"}
KINDS = {"compute": ("█", "green"), "communication": ("▒", "yellow"), "wait": ("░", "red")}
BLOCKS = "▁▂▃▄▅▆▇█"


def draw(seen: Seen, now: float) -> "RenderableType":
    """All that there is to see; `now` in seconds of the epoch."""
    from rich.console import Group
    from rich.text import Text

    kind, told = state(seen, now)
    parts: list[RenderableType] = [
        Text.assemble((str(seen.folder), "bold"), ": ", (told, COLORS.get(kind, "")))
    ]
    if seen.written is not None or seen.summary is not None:
        parts += [Text(line) for line in _progress(seen, kind)]
    if seen.ranks:
        parts += [Text(""), _ranks(seen)]
    if seen.events:
        parts += [Text(""), *(_event(event) for event in seen.events[-MOST_EVENTS:])]
    return Group(*parts)


def sparkline(values: Sequence[float]) -> str:
    """A character a value, from the lowest to the highest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((v - low) * scale))] for v in values)


def _progress(seen: Seen, kind: str) -> Iterator[str]:
    steps = "?" if seen.steps is None else f"{seen.steps:,}"
    line = f"step {seen.step:,} of {steps}"
    for unit in ("tokens", "samples"):
        if (speed := seen.last(f"{unit}_per_second")) is not None:
            line += f", {speed:,.0f} {unit}/s"
    if seen.step_seconds is not None:
        line += f", {seen.step_seconds:.3g} s a step"
        if kind == "running" and seen.steps is not None and seen.step:
            line += f", {duration(max(0, seen.steps - seen.step) * seen.step_seconds)} left"
    yield line
    losses = [loss for row in seen.rows[-CURVE:] if (loss := number(row, "loss")) is not None]
    if losses:
        looked = seen.last("validation_loss")
        after = "" if looked is None else f", validation loss {looked:.4f}"
        yield f"loss {losses[-1]:.4f} {sparkline(losses)}{after}"
    saved = "none yet" if seen.checkpoint is None else f"step {seen.checkpoint:,}"
    yield f"newest checkpoint: {saved}"


def _ranks(seen: Seen) -> "Table":
    """The slowest ranks, where there are too many for a screen."""
    from rich.table import Table

    def slowness(rank: Row) -> tuple[bool, float]:
        return number(rank, "straggler") is None, -(number(rank, "compute") or 0.0)

    shown = sorted(seen.ranks, key=slowness)[:MOST_RANKS]
    more = len(seen.ranks) - len(shown)
    at = "" if seen.ranks_step is None else f", as of step {seen.ranks_step:,}"
    title = f"{len(seen.ranks)} ranks{at}" + (f"; the {len(shown)} slowest" if more else "")
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="")
    for name in ("rank", "host", "s a step", "compute ▒ communication ░ wait", "memory", "GPU", ""):
        left = name in ("host", "") or "wait" in name
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for rank in sorted(shown, key=lambda rank: number(rank, "rank") or 0):
        wall, slow = number(rank, "wall"), number(rank, "straggler")
        mark = "" if slow is None else f"straggler: {slow:.1f} times the others"
        table.add_row(
            _whole(number(rank, "rank")), words(rank, "host")[:30],
            "" if wall is None else f"{wall:.3g}", _bar(rank), _size(number(rank, "memory")),
            _size(number(rank, "gpu_memory")), mark,
        )  # fmt: skip
    return table


def _bar(rank: Row) -> "Text":
    """What its step goes into; the rest is other."""
    from rich.text import Text

    wall, bar = number(rank, "wall") or 0.0, Text()
    for kind, (sign, color) in KINDS.items():
        share = (number(rank, kind) or 0.0) / wall if wall > 0 else 0.0
        bar.append(sign * round(BAR * min(1.0, max(0.0, share))), color)
    return bar


def _event(event: Row) -> "Text":
    from rich.text import Text

    when = words(event, "time").replace("T", " ").removesuffix("Z")
    return Text.assemble((when, "dim"), f" {words(event, 'kind')}: {words(event, 'text')}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _size(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"
