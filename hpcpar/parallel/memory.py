"""How many bytes a rank needs for a layout, by what they are for: planned, without any array. Pure.

`ParallelModel.bytes` counts the same of the arrays that there are.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise

from hpcpar.nn import Model
from hpcpar.optim import OptimConfig, optimizer_bytes, state_arrays
from hpcpar.parallel.activations import arena_bytes
from hpcpar.parallel.context import context_sum_steps
from hpcpar.parallel.gradient_memory import gradient_elements
from hpcpar.parallel.gradients import UNDER_WAY, sum_steps
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.perform import visits
from hpcpar.parallel.traffic import shared_layers
from hpcpar.schedule.pipeline_actions import Action
from hpcpar.schedule.shared_tree import shared_tree_sum
from hpcpar.schedule.steps import extents

__all__ = ["Bytes", "plan_bytes"]

ITEM = 4  # bytes of a float32


@dataclass(frozen=True)
class Bytes:
    """Bytes of a rank.

    Attributes: parameters that it holds; gradients: leaves, partial sums and results, which share
    their memory; optimizer, its state; activations, with messages between stages and scratch of
    the layers; buffers: gathered parameters (ZeRO 3), gradients of tied uses that come from other
    ranks, and what sums need on their way; copies of the state, on the host: for a checkpoint while
    it is written, for a partner, for the next job.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    copies: int = 0

    @property
    def total(self) -> int:
        """Of all of them."""
        return sum(asdict(self).values())


def plan_bytes(
    model: Model,
    layout: Layout,
    stages: Sequence[range],
    optim: OptimConfig,
    stage: int,
    data_rank: int,
    host: bool = True,
    in_place: bool = True,
    recovery: str | None = None,
) -> Bytes:
    """The bytes of the rank at a place of the mesh.

    Args:
        model: with its layers as they are trained (`tensor_parallel` for a place on the tensor and
            the context axis, `recomputed`).
        stages: the layers of every virtual stage.
        host: whether it computes on a CPU.
        in_place: whether data-parallel ranks read each other's memory: on one node.
        recovery: what happens when a rank is lost (--recovery); None leaves copies out.

    Gradients and buffers are the most that there can be: sums of many layers may be under way at a
    time, or not.
    """
    data, zero = layout.data, layout.parallel.zero if layout.data > 1 else 0
    holdings = Holdings(model, stages, stage, layout.pipeline, data)
    slots, actions = layout.slots[data_rank], layout.actions(stage)
    own = [bucket.slices[data_rank] if zero else range(bucket.size) for bucket in holdings.buckets]
    sizes = [bucket.size for bucket in holdings.buckets]
    held = list(map(len, own)) if zero == 3 else sizes
    buffers = _gathered(holdings, actions) if zero == 3 else 0
    if data > 1 and zero < 2:
        buffers += _scratch(layout, holdings, data_rank, zero == 0)
    buffers += _shared_scratch(model, layout, holdings, own)
    for tie in holdings.ties:
        if tie.home == stage != tie.away:
            buffers += len(own[tie.bucket])
    pieces = [piece.size for i in holdings.updated for piece in holdings.buckets[i].pieces(own[i])]
    return Bytes(
        parameters=ITEM * sum(held[i] for i in holdings.has_weights),
        gradients=ITEM * gradient_elements(layout, holdings, actions, data_rank, in_place),
        optimizer=optimizer_bytes(optim, pieces, host),
        activations=_activations(
            model,
            tuple(stages),
            tuple(actions),
            tuple(slot.micro >= 0 for slot in slots),
            layout.batch.micro,
            host,
        ),
        buffers=ITEM * buffers,
        copies=0 if recovery is None else _copies(layout, holdings, optim, data_rank, recovery),
    )


def _copies(
    layout: Layout, holdings: Holdings, optim: OptimConfig, data_rank: int, recovery: str
) -> int:
    """Bytes of the state that are there once more: of the slices that this rank alone updates."""
    own = sum(len(holdings.buckets[i].slices[data_rank]) for i in holdings.updated)
    state = ITEM * own * (1 + state_arrays(optim))
    found = state  # for a checkpoint
    alone = layout.context == 1 and (layout.data == 1 or layout.parallel.zero > 0)
    if recovery == "shrink" and layout.ranks > 1 and alone:  # that of the partner, two gradients
        found += state + 2 * ITEM * own
    if recovery == "relaunch":  # of two steps
        found += 2 * state
    return found


_activations = lru_cache(maxsize=1024)(arena_bytes)  # whatever is done with gradients


def _scratch(layout: Layout, holdings: Holdings, rank: int, whole: bool) -> int:
    """Elements that the sums of all buckets need on their way, beside roots and results.

    Whether by messages or in shared memory: the more of both.
    """
    runs, leaves, known = tuple(layout.runs), len(layout.leaves), dict[object, int]()
    found = 0
    for bucket in holdings.buckets:
        if bucket.slices not in known:
            own = ("out", "roots", *(f"root{i}" for i in range(leaves)))
            known[bucket.slices] = max(
                sum(n for name, n in extents(steps).items() if name not in own)
                for steps in (
                    sum_steps(bucket, rank, leaves, runs, whole, None),
                    shared_tree_sum(rank, bucket.slices, runs, leaves, whole),
                )
            )
        found += known[bucket.slices]
    return found


def _shared_scratch(
    model: Model, layout: Layout, holdings: Holdings, own: Sequence[Sequence[int]]
) -> int:
    """Elements that sums over tensor- and context-parallel ranks need on their way.

    A layer's sums over tensor ranks come one after the other. Of those of gradients over context
    ranks there are as many at a time as there may be.
    """
    among = _largest(model, layout.batch.micro) if layout.tensor > 1 else 0
    if layout.context == 1:
        return among
    sizes = [
        bucket.size if layout.at_once else len(run)
        for bucket, run in zip(holdings.buckets, own, strict=True)
    ]
    each = [
        sum(_context_scratch(sizes[i], layout.context) for i in of) for of in holdings.gradients_of
    ]
    together = sorted(each)[-UNDER_WAY:] if layout.at_once else each
    return among + sum(together)


@lru_cache(maxsize=256)
def _largest(model: Model, micro: int) -> int:
    """Elements beside the largest sum of a layer over tensor ranks."""
    traffic = {found for *_, found in shared_layers(model, micro) if found is not None}
    return max((one.scratch for one in traffic), default=0)


@lru_cache(maxsize=1024)
def _context_scratch(size: int, ranks: int) -> int:
    steps = context_sum_steps(0, ranks, size, None)
    return sum(count for name, count in extents(steps).items() if name != "out")


def _gathered(holdings: Holdings, actions: Iterable[Action]) -> int:
    """Elements of gathered parameters: of a layer, and of the next one that is used."""
    order = visits(list(actions), holdings)
    pairs = {*pairwise(order), *((layer,) for layer in order)}
    most = Counter[int]()
    for pair in pairs:
        most |= Counter(
            holdings.buckets[i].size for layer in pair for i in holdings.weights_of[layer]
        )
    return sum(size * count for size, count in most.items())
