"""All layouts of some ranks: what each needs, how long a step takes, and which is best. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hpcpar.nn import Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.config import PLANNED, BatchConfig, ParallelConfig
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.memory import Bytes, plan_bytes
from hpcpar.parallel.predict import Seconds, predict
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.stages import cut_stages

__all__ = ["Plan", "describe", "layouts", "plan_layout", "plan_layouts"]

CHUNKS = (2, 3, 4)


@dataclass(frozen=True)
class Plan:
    """Attributes: layout; stages, the layers of each; bytes, of the rank that needs most; seconds
    of a step.
    """

    layout: Layout
    stages: tuple[range, ...]
    bytes: Bytes
    seconds: Seconds

    @property
    def samples_per_second(self) -> float:
        """Of the global batch."""
        return self.layout.batch.size / self.seconds.total


def plan_layouts(
    model: Model,
    batch: BatchConfig,
    optim: OptimConfig,
    ranks: int,
    figures: Figures,
    given: Mapping[str, object] | None = None,
    reproducible: str = "ranks",
    host: bool = True,
) -> list[Plan]:
    """The plans of all layouts of so many ranks, the fastest first.

    Args:
        model: written as for one rank.
        given: keys of `ParallelConfig` that are not to be chosen, `speeds` among them.
        host: whether ranks compute on CPUs.

    Among equally fast ones, that which needs less memory comes first.
    """
    again = recomputed(model)
    plans = [
        _plan(model, again, Layout(parallel, batch, ranks, reproducible), optim, figures, host)
        for parallel in layouts(ranks, len(model.layers), given or {})
    ]
    return sorted(plans, key=lambda plan: (plan.seconds.total, plan.bytes.total))


def plan_layout(
    model: Model, layout: Layout, optim: OptimConfig, figures: Figures, host: bool = True
) -> Plan:
    """The plan of one layout. Raises ValueError for more stages than layers."""
    return _plan(model, recomputed(model), layout, optim, figures, host)


def _plan(
    model: Model, again: Model, layout: Layout, optim: OptimConfig, figures: Figures, host: bool
) -> Plan:
    costs = [one.total for one in figures.layers]
    stages = tuple(cut_stages(costs, layout.stages, layout.stage_speeds))
    trained = again if layout.parallel.recompute else model
    needs = [
        plan_bytes(trained, layout, stages, optim, stage, rank, host)
        for stage in range(layout.pipeline)
        for rank in _telling(layout)
    ]
    most = max(needs, key=lambda bytes_: bytes_.total)
    return Plan(layout, stages, most, predict(model, layout, figures, stages))


def layouts(ranks: int, layers: int, given: Mapping[str, object]) -> Iterator[ParallelConfig]:
    """Every layout of so many ranks of a model of so many layers; what makes no difference once."""
    for pipeline in range(1, min(ranks, layers) + 1):
        if ranks % pipeline:
            continue
        data = ranks // pipeline
        for schedule, chunks in _schedules(pipeline, layers, given.get("chunks")):
            for zero in range(4) if data > 1 else (1,):
                for recompute in (False, True) if layers > 2 else (False,):
                    one = ParallelConfig(
                        data=data, pipeline=pipeline, schedule=schedule,  # type: ignore[arg-type]
                        zero=zero, recompute=recompute,  # type: ignore[arg-type]
                    )  # fmt: skip
                    one = replace(one, chunks=chunks or one.chunks)
                    if _fits(one, given):
                        yield replace(one, speeds=given.get("speeds", ()))  # type: ignore[arg-type]


def _schedules(pipeline: int, layers: int, given: object) -> Iterator[tuple[str, int]]:
    if pipeline == 1:
        yield "1f1b", 0
        return
    yield from ((name, 0) for name in ("1f1b", "gpipe", "zero-bubble"))
    several = (given,) if isinstance(given, int) else CHUNKS
    yield from (("interleaved", chunks) for chunks in several if pipeline * chunks <= layers)


def _fits(parallel: ParallelConfig, given: Mapping[str, object]) -> bool:
    """Whether a layout has what is given, where it has a choice."""
    moot = set[str]()
    if parallel.pipeline == 1:
        moot |= {"schedule", "chunks"}
    elif parallel.schedule != "interleaved":
        moot.add("chunks")
    if parallel.data == 1:
        moot.add("zero")
    return all(
        name in moot or getattr(parallel, name) == given[name]
        for name in PLANNED
        if name in given and (name, given[name]) != ("data", -1)
    )


def _telling(layout: Layout) -> Sequence[int]:
    """Data-parallel ranks among which the one is that needs most: those with most leaves."""
    work = [sum(slot.micro >= 0 for slot in own) for own in layout.slots]
    return sorted({0, layout.data - 1, work.index(max(work))})


def describe(parallel: ParallelConfig) -> str:
    """data 2 x pipeline 2, 1f1b, zero 1, recompute."""
    words = [f"data {parallel.data} x pipeline {parallel.pipeline}"]
    if parallel.pipeline > 1:
        chunks = f" x {parallel.chunks}" if parallel.schedule == "interleaved" else ""
        words.append(parallel.schedule + chunks)
    if parallel.data > 1:
        words.append(f"zero {parallel.zero}")
    return ", ".join([*words, *["recompute"] * parallel.recompute])
