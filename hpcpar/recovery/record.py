"""What was computed of a leaf, as digests, and where two computations of it part. Pure."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hpcpar.device import Array, to_host
from hpcpar.recovery.digest import digest
from hpcpar.schedule.pipeline_actions import SendActivation, SendGradient

__all__ = ["COLUMNS", "Difference", "Entry", "Record", "Witnessed", "first_differences", "read"]

GRADIENT, ACTIVATION, LOSS, BACK = range(4)  # kinds of entries, but for the first as they come
COLUMNS = 6  # of the rows of a record, beside those that the reader of `read` adds


class Entry(NamedTuple):
    """What a digest is of.

    Attributes: place, of the rank among those that compute a leaf together; kind; number: of the
    bucket, or of the virtual stage; micro: number of the micro-batch, 0 for a gradient.
    """

    place: int
    kind: int
    number: int
    micro: int


Record = Mapping[Entry, tuple[int, int]]


class Witnessed:
    """A `Witness` that keeps digests of what it is shown."""

    def __init__(self, leaf: int) -> None:
        self._leaf = leaf
        self._found: list[tuple[int, int, int, Array]] = []

    @property
    def leaf(self) -> int:
        """The number of the leaf."""
        return self._leaf

    def gradient(self, bucket: int, array: Array) -> None:
        """See `Witness`."""
        self._found.append((GRADIENT, bucket, 0, digest(array)))

    def sent(self, micro: int, action: SendActivation | SendGradient, array: Array) -> None:
        """See `Witness`."""
        kind = ACTIVATION if isinstance(action, SendActivation) else BACK
        self._found.append((kind, action.stage, micro, digest(array)))

    def loss(self, micro: int, loss: float) -> None:
        """See `Witness`."""
        self._found.append((LOSS, 0, micro, digest(np.array([loss], np.float64))))

    def rows(self, place: int) -> np.ndarray:
        """The entries of the rank at a place, (n, 6) uint64."""
        table = [[place, kind, a, b, *to_host(two).tolist()] for kind, a, b, two in self._found]
        return np.array(table, np.uint64).reshape(-1, COLUMNS)


def read(rows: Iterable[Iterable[int]]) -> Record:
    """The record that rows of all places make."""
    return {Entry(p, kind, a, b): (one, two) for p, kind, a, b, one, two in rows}


class Difference(NamedTuple):
    """Attributes: places, of the ranks that are to blame; buckets of these that differ."""

    places: tuple[int, ...]
    buckets: tuple[tuple[int, int], ...]  # place and number


def first_differences(one: Record, other: Record) -> Difference:
    """Where two computations of a leaf part.

    A wrong activation makes all that follows wrong. So of every micro-batch, the first stage counts
    that sends something else, or has another loss, in the order in which they come: forward from
    stage to stage, and backward. Where all of that is the same, it is the gradients that differ.
    """
    differing = {e for e in one.keys() | other.keys() if one.get(e) != other.get(e)}
    flow = [entry for entry in differing if entry.kind != GRADIENT]
    first: dict[int, tuple[int, int]] = {}
    for entry in flow:
        first[entry.micro] = min(_when(entry), first.get(entry.micro, _when(entry)))
    blamed: Collection[Entry] = [e for e in flow if _when(e) == first[e.micro]] or differing
    places = tuple(sorted({entry.place for entry in blamed}))
    buckets = sorted(
        (e.place, e.number) for e in differing if e.kind == GRADIENT and e.place in places
    )
    return Difference(places, tuple(buckets))


def _when(entry: Entry) -> tuple[int, int]:
    """Forward through the stages, the loss, and back."""
    return entry.kind, -entry.number if entry.kind == BACK else entry.number
