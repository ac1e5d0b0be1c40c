"""What messages cost on this machine, and what it costs to touch memory.

>>> links = measure_links(comm)
>>> links.inside.latency, links.inside.bandwidth     # seconds, bytes a second
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpcpar.comm.aside import Aside

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Link", "Links", "Pair", "choose_pairs", "measure_links"]

PAIRS = {"inside": 3, "between": 2}  # that are measured, one after the other
SECONDS = {"inside": 0.025, "between": 0.06}  # for a pair
LARGE_BYTES = 1 << 22  # of the largest message
FIRST_BYTES = 1 << 18  # of the first one whose bandwidth is measured
MEMORY_BYTES = 1 << 24  # of the arrays that are copied and added: more than most caches hold
MEMORY_SECONDS = 0.01
ROUND_TRIPS = 1000  # of small messages: the more, the less it matters who else uses the cores
STOP = -1


@dataclass(frozen=True)
class Link:
    """The way from one rank to another."""

    latency: float  # seconds that a small message takes, one way
    bandwidth: float  # bytes a second of a large one


@dataclass(frozen=True)
class Pair:
    """Two ranks, and the link between them; kind: inside a node, or between nodes."""

    ranks: tuple[int, int]
    kind: str
    link: Link


@dataclass(frozen=True)
class Links:
    """What `measure_links` finds."""

    pairs: tuple[Pair, ...]
    copy: float  # seconds a byte, of memory beyond the caches, on one core: median of the nodes
    combine: float  # seconds a byte of the result, for float32 additions in place

    @property
    def inside(self) -> Link | None:
        """Between two ranks of a node: medians; None where no node has two."""
        return self._median("inside")

    @property
    def between(self) -> Link | None:
        """Between two nodes: medians; None where there is one node."""
        return self._median("between")

    def _median(self, kind: str) -> Link | None:
        found = [pair.link for pair in self.pairs if pair.kind == kind]
        if not found:
            return None
        return Link(
            median(link.latency for link in found), median(link.bandwidth for link in found)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Links":
        """What `to_dict` was given. Raises ValueError for anything else."""
        try:
            pairs = []
            for pair in fields["pairs"]:
                first, second = map(int, pair["ranks"])
                link = Link(*(float(pair["link"][name]) for name in ("latency", "bandwidth")))
                pairs.append(Pair((first, second), str(pair["kind"]), link))
            return cls(tuple(pairs), float(fields["copy"]), float(fields["combine"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are no measured links ({error!r})") from None


def measure_links(comm: "Communicator") -> Links:
    """Measure a few pairs of ranks of each kind, and every node's memory. Collective.

    Takes about 0.1 s inside a node and 0.3 s over several, while all other ranks rest. Figures are
    medians. Messages are MPI's, tested from Python as all of this package's are; they are in no
    ledger. Every rank gets the same. Raises `HangError` where a rank does not take part.
    """
    Aside(comm.mpi, comm.timeout, "measure_links").meet()
    channel = comm.mpi.Dup()  # which has no time limit, but everybody is here now
    aside = Aside(channel, comm.timeout, "measure_links")
    pairs = choose_pairs(comm._place.map)
    figures = np.zeros((len(pairs), 2))  # latency, bandwidth
    aside.meet()
    for number, (first, second, kind) in enumerate(pairs):
        if comm.rank == first:
            figures[number] = _Line(aside, second).lead(SECONDS[kind])
        elif comm.rank == second:
            _Line(aside, first).follow()
        aside.meet()
    memory = np.zeros((comm.nodes, 2))  # copy, combine
    if comm.local_rank == 0:
        memory[comm.node] = _memory_rates()
    aside.meet()
    figures, memory = aside.add(figures), aside.add(memory)
    channel.Free()
    measured = tuple(
        Pair((first, second), kind, Link(*map(float, row)))
        for (first, second, kind), row in zip(pairs, figures, strict=True)
    )
    return Links(measured, *(float(value) for value in np.median(memory, axis=0)))


def choose_pairs(nodes: Sequence[int]) -> list[tuple[int, int, str]]:
    """The pairs to measure, from the number of each rank's node: two ranks and the kind.

    Inside a node the first rank with the next and with the last, which may have another socket;
    between nodes the first ranks of neighbours.
    """
    ranks_of: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks_of.setdefault(node, []).append(rank)
    groups = list(ranks_of.values())
    inside = [
        (ranks[0], other)
        for ranks in groups
        for other in sorted({*ranks[1:2], ranks[-1]} - {ranks[0]})
    ]
    between = [(one[0], other[0]) for one, other in pairwise(groups)]
    return [
        (*pair, kind)
        for kind, found in (("inside", inside), ("between", between))
        for pair in _spread(found, PAIRS[kind])
    ]


def _spread(pairs: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """At most `count` of them, from the first to the last."""
    if len(pairs) <= count:
        return pairs
    return [pairs[i * (len(pairs) - 1) // (count - 1)] for i in range(count)]


class _Line:
    """The messages of a pair: one rank leads, the other does as it is told.

    A small message says what comes next: itself again (0), a large message of so many bytes both
    ways, or the end (-1).
    """

    def __init__(self, aside: Aside, peer: int) -> None:
        self._aside, self._peer, self._whom = aside, peer, f"rank {peer}"
        self._word, self._heard = np.zeros(1, np.int64), np.zeros(1, np.int64)
        channel = aside.channel
        self._leaving = channel.Send_init((self._word, MPI.INT64_T), peer)
        self._arriving = channel.Recv_init((self._heard, MPI.INT64_T), peer)
        self._block = np.ones(LARGE_BYTES, np.uint8)  # ones: the memory is really there

    def lead(self, seconds: float) -> tuple[float, float]:
        """Latency in seconds, and bandwidth in bytes a second."""
        latency = median(_repeat(self._small, seconds / 4, most=ROUND_TRIPS)) / 2
        size, end = FIRST_BYTES, time.perf_counter() + seconds * 3 / 4
        times = _repeat(partial(self._large, size), 0, most=1)
        while size < LARGE_BYTES and time.perf_counter() + 12 * times[-1] < end:
            size *= 4
            times = _repeat(partial(self._large, size), 0, most=1)
        times = _repeat(partial(self._large, size), end - time.perf_counter(), most=9)
        self._say(STOP)
        self._leaving.Free()
        self._arriving.Free()
        return latency, size / max(median(times) / 2 - latency, 1e-9)

    def follow(self) -> None:
        """Answer, until the other rank ends it."""
        while (size := self._hear()) != STOP:
            if size:
                self._receive(size)
                self._send(size)
            else:
                self._say(0)
        self._leaving.Free()
        self._arriving.Free()

    def _small(self) -> None:
        self._say(0)
        self._hear()

    def _large(self, size: int) -> None:
        self._say(size)
        self._send(size)
        self._receive(size)

    def _say(self, word: int) -> None:
        self._word[0] = word
        self._leaving.Start()
        self._aside.finish(self._leaving.Test, self._whom)

    def _hear(self) -> int:
        self._arriving.Start()
        self._aside.finish(self._arriving.Test, self._whom)
        return int(self._heard[0])

    def _send(self, size: int) -> None:
        request = self._aside.channel.Isend((self._block[:size], MPI.BYTE), self._peer)
        self._aside.finish(request.Test, self._whom)

    def _receive(self, size: int) -> None:
        request = self._aside.channel.Irecv((self._block[:size], MPI.BYTE), self._peer)
        self._aside.finish(request.Test, self._whom)


def _memory_rates() -> tuple[float, float]:
    """Seconds a byte to copy, and to add."""
    one = np.ones(MEMORY_BYTES // 4, np.float32)
    other = np.ones_like(one)
    works: Iterable[Callable[[], object]] = (
        lambda: np.copyto(one, other),
        lambda: np.add(one, other, out=one),
    )
    copy, combine = (median(_repeat(work, MEMORY_SECONDS, most=9)) for work in works)
    return copy / MEMORY_BYTES, combine / MEMORY_BYTES


def _repeat(work: Callable[[], object], seconds: float, most: int) -> list[float]:
    """Durations of `work`: three at least unless `most` is less, the first one left out."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < min(4, most + 1) or (len(times) <= most and time.perf_counter() < end):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[1:]
