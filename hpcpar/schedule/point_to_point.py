"""Schedules of messages between two ranks, in pieces; an empty message is one all the same."""

from functools import lru_cache

from hpcpar.schedule.exchange import SEGMENT, piece, stages
from hpcpar.schedule.steps import Recv, Send, Span, Step

__all__ = ["pieces", "receive", "relay", "send", "sendrecv"]

Steps = tuple[Step, ...]
remember = lru_cache(maxsize=256)


@remember
def send(to: int, count: int, segment: int = SEGMENT) -> Steps:
    """Send "x" to one rank; the other side is `receive`. An empty message is one all the same."""
    return pieces(Send, to, "x", range(count), segment) or (Send(to, Span("x", 0, 0)),)


@remember
def receive(source: int, count: int, segment: int = SEGMENT) -> Steps:
    """Receive "out" from one rank."""
    return pieces(Recv, source, "out", range(count), segment) or (Recv(source, Span("out", 0, 0)),)


@remember
def sendrecv(to: int, sent: int, source: int, received: int, segment: int = SEGMENT) -> Steps:
    """Send "x" to one rank and receive "out" from another."""
    return receive(source, received, segment) + send(to, sent, segment)


@remember
def relay(source: int, to: int, count: int, segment: int = SEGMENT) -> Steps:
    """Receive "out" from one rank and pass it on to another, piece after piece."""
    return receive(source, count, segment) + tuple(
        Send(to, step.span) for step in receive(source, count, segment) if isinstance(step, Recv)
    )


def pieces(
    kind: type[Send] | type[Recv], peer: int, buffer: str, run: range, segment: int
) -> Steps:
    """Send or receive a run of a buffer, cut every `segment` elements; nothing for an empty one."""
    parts = (piece(run, i, segment) for i in range(stages((run,), segment)))
    return tuple(kind(peer, Span(buffer, part.start, part.stop)) for part in parts)
