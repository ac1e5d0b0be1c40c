"""A run's timeline: trace.json for Perfetto (ui.perfetto.dev), and timeline.svg.

Both have a row a rank. The JSON is in the Trace Event Format: complete events ("ph": "X"), times in
microseconds. Every rank's zero is the moment at which it left the barrier before the first
traced step.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcpar.comm import agree
from hpcpar.files import write_whole
from hpcpar.schedule import Action, draw_pipeline, price_pipeline
from hpcpar.schedule.pipeline_actions import (
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
)

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["Trace"]

ACTIONS = {kind.__name__: kind for kind in (Forward, Backward, BackwardInput, BackwardWeight)}

Event = tuple[str, str, int, int, float, float]  # kind, what, micro-batch, stage, start, end


class Trace:
    """Records some steps: from the second on, for the first one pays for what is done once.

    Args:
        steps: how many; 0 for none.
    """

    def __init__(self, model: "ParallelModel", steps: int) -> None:
        self._model, self._left = model, steps
        self._steps: list[float] = []  # when they began

    def before_step(self, first: bool) -> None:
        """A step begins; the `first` of the run is left out. Collective."""
        timeline = self._model.timeline
        timeline.record = self._left > 0 and not first
        if timeline.record:
            if not self._steps:
                self._model.comm.barrier()
                timeline.spans.clear()
            self._steps.append(timeline.now())
            self._left -= 1

    def write(self, folder: Path | None) -> None:
        """Write the files, on the rank that has a folder. Collective."""
        self._model.timeline.record = False
        if not self._steps:
            return
        mine = [self._event(span) for span in self._model.timeline.spans]
        told = agree(self._model.comm, json.dumps(mine))
        if folder is None:
            return
        ranks = [[tuple(event) for event in json.loads(text or "[]")] for text in told]
        write_whole(folder / "trace.json", json.dumps(_perfetto(ranks)))
        self._draw(folder, ranks)

    def _event(self, span: Any) -> Event:
        start, end = span.start - self._steps[0], span.end - self._steps[0]
        what = span.what
        if type(what) in ACTIONS.values():
            return span.kind, type(what).__name__, what.micro, what.stage, start, end
        return span.kind, str(what), -1, -1, start, end

    def _draw(self, folder: Path, ranks: Sequence[Sequence[Event]]) -> None:
        """The last step: as it was, and as the schedule plans it with its times."""
        axes = self._model.axes
        size = axes.pipeline_size
        rows = ranks[:size]  # the first data-parallel rank's stages
        last = self._steps[-1] - self._steps[0]
        real = [
            (rank, ACTIONS[what](micro, stage), start - last, end - last)
            for rank, events in enumerate(rows)
            for kind, what, micro, stage, start, end in events
            if kind == "compute" and what in ACTIONS and start >= last
        ]
        if not real:
            return
        schedules = [axes.schedule(rank, self._model.slots) for rank in range(size)]
        draw_pipeline(schedules, folder / "timeline.svg", real, "measured")
        stages = self._model.holdings.count
        mean = {
            kind: [_mean(real, kind, stage) for stage in range(stages)] for kind in ACTIONS.values()
        }
        weight = mean[BackwardWeight]
        backward = [
            a + b + c for a, b, c in zip(mean[Backward], mean[BackwardInput], weight, strict=True)
        ]
        planned = price_pipeline(schedules, mean[Forward], backward, weight).timeline
        draw_pipeline(schedules, folder / "timeline_planned.svg", planned, "planned")


def _mean(events: Sequence[tuple[int, Action, float, float]], kind: type, stage: int) -> float:
    """Seconds of an action at a stage."""
    found: dict[int, float] = {}
    for _, action, start, end in events:
        if type(action) is kind and action.stage == stage:
            found[action.micro] = found.get(action.micro, 0.0) + end - start
    return sum(found.values()) / len(found) if found else 0.0


def _perfetto(ranks: Sequence[Sequence[Event]]) -> dict[str, Any]:
    events: list[dict[str, Any]] = []
    for rank, spans in enumerate(ranks):
        name = {"name": f"rank {rank}"}
        events.append({"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": name})
        for kind, what, micro, stage, start, end in spans:
            more = {"micro-batch": micro, "stage": stage} if micro >= 0 else {}
            events.append({
                "name": f"{what} {micro}" if micro >= 0 else what, "cat": kind, "ph": "X",
                "ts": 1e6 * start, "dur": 1e6 * (end - start), "pid": rank, "tid": 0, "args": more,
            })  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}
