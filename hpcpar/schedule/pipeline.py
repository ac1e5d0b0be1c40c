"""Pipeline schedules: who computes which micro-batch of which stage when.

Each of the four is an order of a rank's compute actions; the transfers follow from it. With p
ranks, m micro-batches and v chunks a rank:

- `gpipe`: all forwards, then all backwards (Huang et al., "GPipe", 2019, arXiv:1811.06965).
- `1f1b`: a backward as soon as there is one, so that rank r holds at most p - r activations
  (PipeDream-flush: Narayanan et al., "Efficient large-scale language model training on GPU
  clusters using Megatron-LM", 2021, arXiv:2104.04473, section 2.2).
- `interleaved`: 1f1b over v chunks a rank, which divides the bubble by v (the same, section 2.2).
- `zero-bubble`: 1f1b whose weight gradients are put off to where the rank would wait (ZB-H1: Qi et
  al., "Zero bubble pipeline parallelism", 2023, arXiv:2401.10241, section 2).

In each, the backwards and the weight gradients of a stage come in ascending order of micro-batches,
whatever the number of ranks: sums over micro-batches are added up in one order.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Compute,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
)

__all__ = ["PIPELINES", "pipeline_schedule"]

PIPELINES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
GRADIENTS = (Backward, BackwardInput)  # what they make goes to the stage before

A = TypeVar("A", bound=Action)


def pipeline_schedule(
    name: str, rank: int, ranks: int, micros: int, chunks: int | None = None
) -> tuple[Action, ...]:
    """The actions of one rank in one step, in program order.

    Args:
        name: one of `PIPELINES`.
        rank: of `ranks` in the pipeline.
        ranks: any number, also more than there are micro-batches.
        micros: micro-batches in a step, any number.
        chunks: virtual stages of a rank. Only interleaved has more than one; None stands for 2
            there, and for 1 elsewhere.

    A receive is started one compute action before the one that needs it, a send right after the one
    that makes it. Raises ValueError for a name or numbers that make no schedule.
    """
    if name not in PIPELINES:
        raise ValueError(f"there is no pipeline schedule {name!r}: take one of {_listed()}")
    if ranks < 1 or not 0 <= rank < ranks:
        raise ValueError(f"there is no rank {rank} in a pipeline of {ranks} ranks")
    if micros < 1:
        raise ValueError(f"a step has at least one micro-batch, not {micros}")
    if chunks is None:
        chunks = 2 if name == "interleaved" else 1
    if name == "interleaved" and chunks < 2:
        raise ValueError(f"interleaved needs at least 2 chunks a rank, not {chunks}")
    if name != "interleaved" and chunks != 1:
        raise ValueError(f"{name} has one chunk a rank, not {chunks}: only interleaved has more")
    if name == "gpipe":
        order = _one_stage(rank, micros, micros)
    elif name == "1f1b":
        order = _one_stage(rank, micros, ranks - 1 - rank)
    elif name == "interleaved":
        order = _interleaved(rank, ranks, micros, chunks)
    else:
        order = _zero_bubble(rank, ranks, micros)
    return _with_transfers(order, ranks, ranks * chunks)


def _listed() -> str:
    return ", ".join(PIPELINES[:-1]) + " and " + PIPELINES[-1]


def _alternate(
    forwards: Sequence[Compute], backwards: Sequence[Compute], ahead: int
) -> list[Compute]:
    """`ahead` forwards, then one forward and one backward in turn, then the other backwards."""
    order = list(forwards[:ahead])
    rest = forwards[ahead:]
    for pair in zip(rest, backwards, strict=False):
        order += pair
    order += backwards[len(rest) :]
    return order


def _one_stage(rank: int, micros: int, ahead: int) -> list[Compute]:
    return _alternate(
        [_action(Forward, micro, rank) for micro in range(micros)],
        [_action(Backward, micro, rank) for micro in range(micros)],
        ahead,
    )


def _interleaved(rank: int, ranks: int, micros: int, chunks: int) -> list[Compute]:
    """Micro-batches go through the chunks of a rank in groups, one chunk after the other.

    While a group of at least `ranks` is in one chunk, its first micro-batch comes round to the
    next: nobody waits. Megatron has groups of exactly `ranks`. Here a remainder is spread over the
    groups: every number of micro-batches works, and from `ranks` on the bubble is the same.
    """
    count = max(1, micros // ranks)
    ends = [-(-micros * i // count) for i in range(count + 1)]
    groups = [range(start, end) for start, end in pairwise(ends)]
    stages = range(rank, ranks * chunks, ranks)
    forwards = [
        _action(Forward, micro, stage) for group in groups for stage in stages for micro in group
    ]
    backwards = [
        _action(Backward, micro, stage)
        for group in groups
        for stage in reversed(stages)
        for micro in group
    ]
    # The last rank begins backwards when a group has come to the last chunk. Each rank before it is
    # two further ahead: one forward to get there, and one until a backward has come back.
    ahead = (chunks - 1) * len(groups[0]) + 2 * (ranks - 1 - rank)
    return _alternate(forwards, backwards, ahead)


def _zero_bubble(rank: int, ranks: int, micros: int) -> list[Compute]:
    """1f1b in which rank r is r weight gradients behind.

    In 1f1b rank r holds p - r activations; r more are kept for weight gradients: p on every rank.
    """
    order: list[Compute] = []
    for action in _one_stage(rank, micros, ranks - 1 - rank):
        if isinstance(action, Forward):
            order.append(action)
            continue
        order.append(_action(BackwardInput, action.micro, rank))
        if action.micro >= rank:
            order.append(_action(BackwardWeight, action.micro - rank, rank))
    late = range(max(0, micros - rank), micros)
    return order + [_action(BackwardWeight, micro, rank) for micro in late]


def _with_transfers(order: Sequence[Compute], ranks: int, stages: int) -> tuple[Action, ...]:
    """The order with receives one compute action ahead, and sends right after what they send."""
    if ranks == 1:
        return tuple(order)
    actions: list[Action] = []
    ahead = 0  # the place of the last compute action: the receives of the next go before it
    for action in order:
        micro, stage, kind = action.micro, action.stage, type(action)
        before, after = (stage - 1) % ranks, (stage + 1) % ranks
        if kind is Forward and stage > 0:
            actions.insert(ahead, _action(ReceiveActivation, micro, stage, before))
        elif kind in GRADIENTS and stage < stages - 1:
            actions.insert(ahead, _action(ReceiveGradient, micro, stage, after))
        ahead = len(actions)
        actions.append(action)
        if kind is Forward and stage < stages - 1:
            actions.append(_action(SendActivation, micro, stage, after))
        elif kind in GRADIENTS and stage > 0:
            actions.append(_action(SendGradient, micro, stage, before))
    return tuple(actions)


@lru_cache(maxsize=1 << 15)
def _action(kind: type[A], *fields: int) -> A:
    """The same actions stand in the schedules of many sizes: each is made once."""
    return kind(*fields)
