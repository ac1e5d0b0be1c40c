"""How long a step takes with a layout: predicted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from hpcpar.nn import Model
from hpcpar.parallel.costs import LayerSeconds
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout, step_actions
from hpcpar.parallel.link import ITEM
from hpcpar.parallel.shared_seconds import shared_seconds
from hpcpar.parallel.sum_seconds import exposed_seconds
from hpcpar.schedule.pipeline_price import price_pipeline
from hpcpar.schedule.shape import roots

__all__ = ["Seconds", "predict"]


@dataclass(frozen=True)
class Seconds:
    """Of a step, on the ranks that take longest.

    Attributes: compute, with the update; communication that is not hidden behind it; bubble, in
    which ranks of the pipeline wait for each other.
    """

    compute: float
    communication: float
    bubble: float

    @property
    def total(self) -> float:
        """Of the step."""
        return self.compute + self.communication + self.bubble


def predict(
    model: Model,
    layout: Layout,
    figures: Figures,
    stages: Sequence[range],
    shares: Sequence[Model] = (),
) -> Seconds:
    """Seconds of a step.

    Args:
        model: as it is on one rank; what recomputation takes is added here.
        shares: the model as ranks have it that may have most to do, where ranks share its layers.
        stages: the layers of every virtual stage.

    The pipeline is priced as it is scheduled (`price_pipeline`); a bucket's sum starts when the
    last backward of its layer is over, and buckets follow one after the other. The slowest
    data-parallel rank counts.
    """
    shared = shares or (model,)
    holdings = [
        Holdings(shared[0], stages, rank, layout.pipeline, layout.data)
        for rank in range(layout.pipeline)
    ]
    spent = shared_seconds(model, shared, layout, figures)
    if layout.parallel.recompute:  # but for the first and the last layer
        spent[1:-1] = [one.again() for one in spent[1:-1]]
    layers = [one.total for one in spent]
    waiting = max(
        sum(spent[i].waiting.total for run in stages[rank :: layout.pipeline] for i in run)
        for rank in range(layout.pipeline)
    )
    transfer = _transfer(shared[0], layout, figures, stages)
    worst = Seconds(0.0, 0.0, 0.0)
    seen = set()
    for rank, own in enumerate(layout.slots):
        work = [slot for slot in own if slot.micro >= 0]
        speeds = layout.speeds_of(rank)
        key = len(work), len({slot.leaf for slot in work}), speeds
        if not work or key in seen:
            continue
        seen.add(key)
        added = [_added(layout, holding, rank) * figures.combine for holding in holdings]
        table = _stage_seconds(layers, stages, speeds, added, len(work))
        price = _price(layout, len(work), table, transfer)
        updates = [
            figures.update * _updated(layout, holding, rank) / speed
            for holding, speed in zip(holdings, speeds, strict=True)
        ]
        exposed = max(
            exposed_seconds(layout, holding, layers, figures, rank) for holding in holdings
        )
        waits = len(work) * waiting  # of the busiest stage: they are no computing
        found = Seconds(price[1] - waits + max(updates), exposed + waits, price[0] - price[1])
        if found.total > worst.total:
            worst = found
    return worst


def _transfer(model: Model, layout: Layout, figures: Figures, stages: Sequence[range]) -> float:
    """Seconds of the largest message between stages."""
    if layout.pipeline == 1:
        return 0.0
    shape, largest = (layout.batch.micro, *model.input_shape), 0
    starts = {run.start for run in stages[1:]}
    for number, layer in enumerate(model.layers):
        if number in starts:
            largest = max(largest, ITEM * prod(shape))
        shape = layer.output_shape(shape)
    return figures.latency + largest / figures.bandwidth


def _stage_seconds(
    layers: Sequence[LayerSeconds],
    stages: Sequence[range],
    speeds: Sequence[float],
    added: Sequence[float],
    micros: int,
) -> tuple[tuple[float, ...], ...]:
    """Forward, backward and weight of a micro-batch in every virtual stage.

    `added` is what a rank spends on adding up its own gradients in a step: it is part of backward.
    """
    ranks, rows = len(speeds), []
    for stage, run in enumerate(stages):
        rank = stage % ranks
        here = sum(len(other) for other in stages[rank::ranks])
        adding = added[rank] / micros * len(run) / here
        own = [layers[i] for i in run]
        rows.append(
            (
                sum(one.forward for one in own) / speeds[rank],
                (sum(one.backward for one in own) + adding) / speeds[rank],
                (sum(one.weight for one in own) + adding) / speeds[rank],
            )
        )
    return tuple(zip(*rows, strict=True))


def _price(
    layout: Layout, micros: int, table: tuple[tuple[float, ...], ...], transfer: float
) -> tuple[float, float]:
    """Seconds until the last rank is done, and those that the busiest one computes."""
    ranks, parallel = layout.pipeline, layout.parallel
    limit = 4 * ranks
    if micros <= limit + ranks:
        return _priced(parallel.schedule, ranks, parallel.stages_a_rank, micros, table, transfer)
    # Then it goes on evenly: each further round of micro-batches takes what the last one took.
    late = limit + (micros - limit) % ranks
    one, other = (
        _priced(parallel.schedule, ranks, parallel.stages_a_rank, count, table, transfer)
        for count in (late - ranks, late)
    )
    rounds = (micros - late) // ranks
    return tuple(b + rounds * (b - a) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


@lru_cache(maxsize=4096)
def _priced(
    schedule: str,
    ranks: int,
    chunks: int,
    micros: int,
    table: tuple[tuple[float, ...], ...],
    transfer: float,
) -> tuple[float, float]:
    if ranks == 1:
        busy = micros * (sum(table[0]) + sum(table[1]))
        return busy, busy
    parallel = _Parallel(schedule, ranks, chunks)
    steps = [step_actions(parallel, rank, micros) for rank in range(ranks)]  # type: ignore[arg-type]
    forward, backward, weight = table
    price = price_pipeline(steps, forward, backward, weight, transfer)
    return price.seconds, max(price.busy)


@dataclass(frozen=True)
class _Parallel:
    """What a schedule depends on."""

    schedule: str
    pipeline: int
    stages_a_rank: int


def _added(layout: Layout, holdings: Holdings, rank: int) -> float:
    """Bytes of gradients that a rank adds up by itself in a step."""
    size = sum(bucket.size for bucket in holdings.buckets)
    slots = [slot for slot in layout.slots[rank] if slot.micro >= 0]
    beside = sum(not slot.first for slot in slots)
    if layout.rounds:
        return ITEM * size * (beside + (len(layout.leaves) - 1) / layout.data)
    run = layout.runs[rank]
    return ITEM * size * (beside + len(run) - roots(run.start, run.stop, len(layout.leaves)))


def _updated(layout: Layout, holdings: Holdings, rank: int) -> int:
    """Elements that a rank's optimizer looks after."""
    whole = layout.data == 1 or layout.parallel.zero == 0
    buckets = [holdings.buckets[i] for i in holdings.updated]
    return sum(bucket.size if whole else len(bucket.slices[rank]) for bucket in buckets)
