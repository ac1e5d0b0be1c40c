"""Schedules of messages between two ranks, in pieces.

All but the last are full, and the last is not: after a multiple of the segment it is empty. So no
message's pieces are the beginning of a longer one's, and a receiver knows when it got another.
"""

from functools import lru_cache

from hpcpar.schedule.exchange import SEGMENT, piece, stages
from hpcpar.schedule.steps import Recv, Send, Span, Step

__all__ = ["pieces", "receive", "relay", "send", "sendrecv"]

Steps = tuple[Step, ...]
remember = lru_cache(maxsize=256)


@remember
def send(to: int, count: int, segment: int = SEGMENT) -> Steps:
    """Send "x" to one rank; the other side is `receive`."""
    return _message(Send, to, "x", count, segment)


@remember
def receive(source: int, count: int, segment: int = SEGMENT) -> Steps:
    """Receive "out" from one rank."""
    return _message(Recv, source, "out", count, segment)


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


def _message(
    kind: type[Send] | type[Recv], peer: int, buffer: str, count: int, segment: int
) -> Steps:
    end = () if count % segment else (kind(peer, Span(buffer, count, count)),)
    return pieces(kind, peer, buffer, range(count), segment) + end
