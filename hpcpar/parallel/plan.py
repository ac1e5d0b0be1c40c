"""All layouts of some ranks: what each needs, how long a step takes, and which is best. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, cmp_to_key, partial
from itertools import product

from hpcpar.nn import Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.config import PLANNED, BatchConfig, ParallelConfig
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.layout import Layout, Sharing
from hpcpar.parallel.memory import Bytes, plan_bytes
from hpcpar.parallel.predict import Seconds, predict
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.shares import shared_model, sharings
from hpcpar.parallel.spans import deal_spans
from hpcpar.parallel.stages import cut_stages

__all__ = ["Plan", "describe", "layouts", "plan_layout", "plan_layouts"]

CHUNKS = (2, 3, 4)


@dataclass(frozen=True)
class Plan:
    """Attributes: layout; stages, the layers of each; seconds of a step; bytes, of the rank that
    needs most (counted when they are first asked for: that takes longer than all else).
    """

    layout: Layout
    stages: tuple[range, ...]
    seconds: Seconds
    count: Callable[[], Bytes] = field(repr=False, compare=False)

    @cached_property
    def bytes(self) -> Bytes:
        """Of the rank that needs most."""
        return self.count()

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
    limit: float = math.inf,
    recovery: str | None = None,
) -> list[Plan]:
    """The plans of all layouts of so many ranks, the fastest first.

    Args:
        model: written as for one rank.
        given: keys of `ParallelConfig` that are not to be chosen, `speeds` and `tiles` among them.
        host: whether ranks compute on CPUs.
        limit: bytes that a rank has.
        recovery: what happens when a rank is lost; None leaves copies of the state out.

    Among equally fast ones, that which needs less memory comes first. Ranks that share layers or
    positions have bits of their own under "ranks": unless that was asked for, there are such
    layouts only where no other fits. Raises `UserError` where the model cannot be shared as given.
    """
    given = dict(given or {})
    planner = _Planner(model, batch, optim, ranks, figures, reproducible, host, recovery)
    if reproducible != "ranks":
        return planner.plans(given)
    plans = planner.plans({"tensor": 1, "context": 1} | given)
    if any(plan.bytes.total <= limit for plan in plans):
        return plans
    return planner.plans(given)


def plan_layout(
    model: Model, layout: Layout, optim: OptimConfig, figures: Figures, host: bool = True
) -> Plan:
    """The plan of one layout.

    Raises ValueError for more stages than layers, and where the model cannot be shared so.
    """
    planner = _Planner(
        model, layout.batch, optim, layout.ranks, figures, layout.reproducible, host
    )  # fmt: skip
    return planner.plan(layout)


class _Planner:
    """Knows what all layouts have in common."""

    def __init__(
        self,
        model: Model,
        batch: BatchConfig,
        optim: OptimConfig,
        ranks: int,
        figures: Figures,
        reproducible: str,
        host: bool,
        recovery: str | None = None,
    ) -> None:
        self._model, self._batch, self._optim, self._ranks = model, batch, optim, ranks
        self._figures, self._reproducible, self._host = figures, reproducible, host
        self._recovery = recovery if host else None  # a GPU's memory has no copies
        self._known: dict[Sharing, list[tuple[Model, Model]]] = {}

    def plans(self, given: Mapping[str, object]) -> list[Plan]:
        """Of all layouts with what is given, sorted."""
        tiles = _kept(ParallelConfig(), given).tiles_under(self._reproducible)
        ways = sharings(self._model, self._ranks, self._batch.micro, tiles, given)
        plans = [
            self.plan(Layout(parallel, self._batch, self._ranks, self._reproducible))
            for parallel in layouts(self._ranks, len(self._model.layers), given, ways)
        ]
        return sorted(plans, key=cmp_to_key(_order))

    def plan(self, layout: Layout) -> Plan:
        """Of one."""
        costs = [one.total for one in self._figures.layers]
        stages = tuple(cut_stages(costs, layout.stages, layout.stage_speeds))
        plain = [share for share, _ in self._shares(layout)]
        seconds = predict(self._model, layout, self._figures, stages, plain)
        return Plan(layout, stages, seconds, partial(self._bytes, layout, stages))

    def _bytes(self, layout: Layout, stages: Sequence[range]) -> Bytes:
        """Of the rank that needs most."""
        in_place = self._host and not self._figures.overlap  # that is inside a node
        needs = [
            plan_bytes(
                share[layout.parallel.recompute], layout, stages, self._optim, stage, rank,
                self._host, in_place, self._recovery,
            )
            for share in self._shares(layout)
            for stage in range(layout.pipeline)
            for rank in _telling(layout)
        ]  # fmt: skip
        return max(needs, key=lambda bytes_: bytes_.total)

    def _shares(self, layout: Layout) -> list[tuple[Model, Model]]:
        """The model, and recomputed, as those ranks have it among which the one with most is.

        The first tensor rank has as much as any; the last span of a sequence is on the first
        context rank, or on the second where each has one.
        """
        how = layout.sharing
        if how not in self._known:
            shared = [
                shared_model(self._model, how, layout.tiles, 0, context)
                for context in range(1 if how.context == 1 or self._spans(layout) > 1 else 2)
            ]
            self._known[how] = [(one, recomputed(one)) for one in shared]
        return self._known[how]

    def _spans(self, layout: Layout) -> int:
        """Of a context rank."""
        return deal_spans(self._model.input_shape[0], 0, layout.context, layout.tiles).each


def _order(one: Plan, other: Plan) -> int:
    """Below 0 where `one` comes first. Bytes are looked at only where they decide."""
    first, second = one.seconds.total, other.seconds.total
    if first == second:
        first, second = one.bytes.total, other.bytes.total
    return (first > second) - (first < second)


def layouts(
    ranks: int, layers: int, given: Mapping[str, object], ways: Sequence[Sharing] = (Sharing(),)
) -> Iterator[ParallelConfig]:
    """Every layout of so many ranks of a model of so many layers; what makes no difference once.

    `ways` in which its layers can be shared. Where they are, there are fewer of the other keys: the
    schedules 1f1b and zero-bubble, `zero` 1 and 3, unless others are given.
    """
    for how in ways:
        others = ranks // (how.tensor * how.context)
        for pipeline in range(1, min(others, layers) + 1):
            if others % pipeline:
                continue
            data = others // pipeline
            alone = how == Sharing()
            zeros = range(4) if alone or "zero" in given else (1, 3)
            schedules = [
                one
                for one in _schedules(pipeline, layers, given.get("chunks"))
                if alone or "schedule" in given or one[0] in ("1f1b", "zero-bubble")
            ]
            for (schedule, chunks), zero, recompute in product(
                schedules, zeros if data > 1 else (1,), (False, True) if layers > 2 else (False,)
            ):
                one = ParallelConfig(
                    data=data, pipeline=pipeline, context=how.context, tensor=how.tensor,
                    sequence=how.sequence, schedule=schedule,  # type: ignore[arg-type]
                    zero=zero, recompute=recompute,  # type: ignore[arg-type]
                )  # fmt: skip
                one = replace(one, chunks=chunks or one.chunks)
                if _fits(one, given):
                    yield _kept(one, given)


def _kept(parallel: ParallelConfig, given: Mapping[str, object]) -> ParallelConfig:
    """With what no plan chooses."""
    keys = {name: given[name] for name in ("speeds", "tiles") if name in given}
    return replace(parallel, **keys)  # type: ignore[arg-type]


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
    if parallel.tensor == 1:
        moot.add("sequence")
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
    """data 2 x pipeline 2 x tensor 2, sequence, 1f1b, zero 1, recompute."""
    axes = [("data", parallel.data), ("pipeline", parallel.pipeline)]
    shared = [("context", parallel.context), ("tensor", parallel.tensor)]
    axes += [(name, size) for name, size in shared if size > 1]
    words = [" x ".join(f"{name} {size}" for name, size in axes)]
    if parallel.tensor > 1 and parallel.sequence:
        words.append("sequence")
    if parallel.pipeline > 1:
        chunks = f" x {parallel.chunks}" if parallel.schedule == "interleaved" else ""
        words.append(parallel.schedule + chunks)
    if parallel.data > 1:
        words.append(f"zero {parallel.zero}")
    return ", ".join([*words, *["recompute"] * parallel.recompute])
