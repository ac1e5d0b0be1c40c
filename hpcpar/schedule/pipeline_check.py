"""Proves pipeline schedules right, without MPI: all ranks in one process.

First each rank by itself: what an action needs was done, or asked for, before. Then each stage: no
micro-batch is left out, gradients come in ascending order, sends meet receives. Then all ranks
together: each goes on until it waits for a message, and all must come to their end.

The outcome does not depend on timing: the actions of a rank happen in program order, and messages
are matched in order. Nor does it depend on buffers: a send may be held up until its receive has
started, and only the end of a schedule waits for sends, where all receives have started.
"""

from collections.abc import Sequence
from itertools import pairwise

from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
)
from hpcpar.schedule.pipeline_rules import Found, Stage, rules_of, what_is_wrong
from hpcpar.schedule.play import ScheduleError

__all__ = ["check_pipeline", "peak_activations"]

Schedules = Sequence[Sequence[Action]]


def check_pipeline(schedules: Schedules, micros: int, chunks: int = 1) -> None:
    """Raise `ScheduleError` unless the schedules of all ranks make one step.

    Args:
        schedules: the actions of every rank.
        micros: micro-batches of the step.
        chunks: virtual stages of each rank.

    Found are a forward, a backward or a weight gradient that is missing, comes twice or too early;
    gradients not in ascending order of micro-batches; a compute action whose receive was not
    started before; a send or a receive without its counterpart, or in another order; an action that
    is not this rank's; a circular wait. The message names rank and action. The time it takes is
    proportional to the number of actions.
    """
    ranks, stages = len(schedules), [Stage() for _ in range(len(schedules) * chunks)]
    messages = [_alone(schedules, rank, stages, micros) for rank in range(ranks)]
    for s, stage in enumerate(stages):
        rank = s % ranks
        whole = stage.weights.keys() == stage.backwards.keys()
        for found, kind in (
            (stage.forwards, Forward),
            (stage.backwards, Backward if whole else BackwardInput),
            (stage.weights, BackwardWeight),
        ):
            if len(found) < micros:
                micro = min(set(range(micros)) - found.keys())
                raise ScheduleError(f"rank {rank} has no {kind(micro, s)}")
            if kind is not Forward and list(found) != list(range(micros)):
                later, number = next((m, n) for i, (m, n) in enumerate(found.items()) if m != i)
                earlier = list(found).index(later)
                why = f"that of micro-batch {earlier} has to come before"
                raise _fault(schedules, rank, number, why)
    for s, (here, after) in enumerate(pairwise(stages)):
        _matched(schedules, s % ranks, here.sent, (s + 1) % ranks, after.received)
        _matched(schedules, (s + 1) % ranks, after.returned, s % ranks, here.regained)
    _together(schedules, messages, stages, micros)


def peak_activations(schedules: Schedules) -> tuple[int, ...]:
    """The largest number of activations that each rank holds at a time.

    The activation of a micro-batch in a virtual stage is there from the start of its `Forward` to
    the end of its `Backward` or `BackwardWeight`. With v chunks it is that of 1 / v of a rank's
    layers.
    """
    peaks = []
    for steps in schedules:
        held = peak = 0
        for action in steps:
            kind = type(action)
            if kind is Forward:
                held += 1
                peak = max(peak, held)
            elif kind is Backward or kind is BackwardWeight:
                held -= 1
        peaks.append(peak)
    return tuple(peaks)


def _alone(schedules: Schedules, rank: int, stages: list[Stage], micros: int) -> list[int]:
    """The numbers of the messages that a rank waits for, and ~number of those that it sends."""
    ranks = len(schedules)
    rules = rules_of(rank, ranks, stages, micros)
    messages: list[int] = []
    for number, action in enumerate(schedules[rank]):
        micro = action.micro
        try:
            rule = rules[type(action)][action.stage]
        except KeyError:
            why = f"it has no such action among {len(stages)} stages on {ranks} ranks"
            raise _fault(schedules, rank, number, why) from None
        found, twin, needs, also, first, turn, peer, peer_of = rule
        if micro in found or micro not in needs or (also is not None and micro not in also):
            raise _fault(schedules, rank, number, what_is_wrong(action, rule, ranks, micros))
        if peer_of is not None and peer_of(action) != peer:
            raise _fault(schedules, rank, number, f"the other stage is on rank {peer}")
        found[micro] = number
        if twin is not None:
            twin[micro] = number
        if turn:
            messages.append(first + turn * micro)
    return messages


def _matched(
    schedules: Schedules, sender: int, sent: Found, receiver: int, received: Found
) -> None:
    """Whether sends and receives of one kind between two stages are the same, in the same order."""
    if list(sent) == list(received):
        return
    for micro, number in sent.items():
        if micro not in received:
            raise _fault(schedules, sender, number, f"rank {receiver} has no receive for it")
    for micro, number in received.items():
        if micro not in sent:
            raise _fault(schedules, receiver, number, f"rank {sender} has no send for it")
    send, receive = next(
        (n, received[other]) for (m, n), other in zip(sent.items(), received, strict=True)
        if m != other
    )  # fmt: skip
    raise _fault(schedules, sender, send, f"it meets {_where(schedules, receiver, receive)}")


def _together(
    schedules: Schedules, messages: list[list[int]], stages: list[Stage], micros: int
) -> None:
    """Each rank goes on until it waits for a message that has not been sent."""
    rest = [iter(numbers) for numbers in messages]
    sent = bytearray(2 * len(stages) * micros)
    waiting: dict[int, int] = {}  # message -> rank
    ready = list(range(len(rest)))
    while ready:
        rank = ready.pop()
        for number in rest[rank]:
            if number < 0:
                sent[~number] = True
                if ~number in waiting:
                    ready.append(waiting.pop(~number))
            elif not sent[number]:
                waiting[number] = rank
                break
    if waiting:
        raise ScheduleError(_circle(schedules, waiting, stages, micros))


def _circle(schedules: Schedules, waiting: dict[int, int], stages: list[Stage], micros: int) -> str:
    """Follow who waits for whom, until a rank comes up again."""
    held = {rank: number for number, rank in waiting.items()}
    rank = min(held)
    lines: dict[int, str] = {}
    while rank not in lines:
        boundary, micro = divmod(held[rank], micros)
        stage, back = divmod(boundary, 2)
        found = stages[stage].backwards if back else stages[stage + 1].forwards
        sender = (stage + back) % len(schedules)
        lines[rank] = f"{_where(schedules, rank, found[micro])} waits for rank {sender}"
        rank = sender
    return "circular wait: " + "; ".join(list(lines.values())[list(lines).index(rank) :])


def _fault(schedules: Schedules, rank: int, number: int, why: str) -> ScheduleError:
    return ScheduleError(f"{_where(schedules, rank, number)}: {why}")


def _where(schedules: Schedules, rank: int, number: int) -> str:
    return f"rank {rank}, action {number} ({schedules[rank][number]})"
