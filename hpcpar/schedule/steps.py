"""The words that schedules are written in.

A schedule of one rank is a sequence of steps in program order. `Send` and `Recv` *start* a transfer
and return at once; nobody waits explicitly. Instead a scoreboard holds a step back until what it
touches is ready, as in a processor that issues in order (Thornton, "Parallel operation in the
Control Data 6600", 1964):

- a step that reads a span waits for the pending receives into it;
- a step that writes a span waits for the pending receives into it and the pending sends from it;
- the end of the schedule waits for everything.

The sends of a rank to another are matched with that rank's receives from it one by one, in order.
A send may be held up until its receive has started: a correct schedule never relies on buffering.
Which transfers a step waits for depends on the schedule alone: `dependencies` finds it beforehand.

Where arrays are symmetric (every rank of a node can read every other's), a `Combine` or a `Copy`
may name a peer's span: it is read, or written, where it lies. `Meet` stands between the steps of
different ranks that touch the same memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "OWN",
    "Combine",
    "Copy",
    "Meet",
    "Recv",
    "Send",
    "Span",
    "Step",
    "dependencies",
    "extents",
]

OWN = -1


@dataclass(frozen=True, slots=True)
class Span:
    """Elements `start` to `stop` (exclusive) of a flat buffer, which steps know by its name.

    The buffer is the rank's own, or that of the peer `rank`.
    """

    buffer: str
    start: int
    stop: int
    rank: int = OWN

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        whose = "" if self.rank == OWN else f" of rank {self.rank}"
        return f"{self.buffer}[{self.start}:{self.stop}]{whose}"

    def overlaps(self, other: "Span") -> bool:
        """Whether an element belongs to both."""
        return (
            self.buffer == other.buffer
            and self.rank == other.rank
            and max(self.start, other.start) < min(self.stop, other.stop)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Send:
    """Start sending `span` to rank `to`."""

    to: int
    span: Span

    def __str__(self) -> str:
        return f"send {self.span} to rank {self.to}"


@dataclass(frozen=True, slots=True)
class Recv:
    """Start receiving `span` from rank `source`."""

    source: int
    span: Span

    def __str__(self) -> str:
        return f"receive {self.span} from rank {self.source}"


@dataclass(frozen=True, slots=True)
class Combine:
    """into = left op right, element by element; `into` may be one of the two."""

    into: Span
    left: Span
    right: Span

    def __str__(self) -> str:
        return f"combine {self.into} = {self.left} op {self.right}"


@dataclass(frozen=True, slots=True)
class Copy:
    """into = source."""

    into: Span
    source: Span

    def __str__(self) -> str:
        return f"copy {self.into} = {self.source}"


@dataclass(frozen=True, slots=True)
class Meet:
    """Go on when all ranks have come to their `Meet`: what they wrote before may then be read.

    Waits for every pending transfer of the rank first.
    """

    def __str__(self) -> str:
        return "meet"


Step = Send | Recv | Combine | Copy | Meet


def reads(step: Step) -> tuple[Span, ...]:
    """The spans whose values the step uses."""
    match step:
        case Send(_, span):
            return (span,)
        case Combine(_, left, right):
            return (left, right)
        case Copy(_, source):
            return (source,)
    return ()


def writes(step: Step) -> tuple[Span, ...]:
    """The spans whose values the step sets."""
    match step:
        case Recv(_, span):
            return (span,)
        case Combine(into, _, _) | Copy(into, _):
            return (into,)
    return ()


def dependencies(steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """For each step, the numbers of the earlier transfers it has to wait for.

    A transfer that was waited for is over: it is named once, by the first step that needs it.
    """
    sends: dict[str, dict[int, Span]] = {}  # pending, by buffer and step number
    receives: dict[str, dict[int, Span]] = {}
    waits = []
    for number, step in enumerate(steps):
        over: list[int] = []
        if isinstance(step, Meet):
            over = [n for kind in (sends, receives) for pending in kind.values() for n in pending]
            sends, receives = {}, {}
        for span in reads(step):
            over += _settle(receives, span)
        for span in writes(step):
            over += _settle(receives, span) + _settle(sends, span)
        waits.append(tuple(sorted(over)))
        if isinstance(step, Send | Recv) and len(step.span):
            pending = sends if isinstance(step, Send) else receives
            pending.setdefault(step.span.buffer, {})[number] = step.span
    return waits


def extents(steps: Sequence[Step]) -> dict[str, int]:
    """How many elements of each of the rank's own buffers the steps reach."""
    reach: dict[str, int] = {}
    for step in steps:
        for span in reads(step) + writes(step):
            if span.rank != OWN:
                continue
            reach[span.buffer] = max(reach.get(span.buffer, 0), span.stop)
    return reach


def _settle(pending: dict[str, dict[int, Span]], span: Span) -> list[int]:
    """Take the transfers that overlap `span` out of `pending`."""
    transfers = pending.get(span.buffer, {})
    over = [number for number, other in transfers.items() if span.overlaps(other)]
    for number in over:
        del transfers[number]
    return over
