"""What schedules cost: seconds, bytes and messages, on a network given by a few figures.

All ranks are simulated in one process. The steps have the meaning that the runner and the checker
give them: a rank does one after the other, a step waits for the transfers that overlap what it
touches, and a transfer begins when both sides have started it. Then it takes the latency, and after
that its bytes flow. Flows share the ports they pass max-min fairly, in each direction separately
(Bertsekas and Gallager, "Data Networks", 1992, section 6.5; the model is SimGrid's CM02: Casanova
and Marchal, "A network model for simulation of grid application", 2002).

Every rank has a port, and every node has one that its ranks share on the way to other nodes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from hpcpar.schedule.flows import Flow, Port, share
from hpcpar.schedule.steps import (
    OWN,
    Combine,
    Copy,
    Meet,
    Recv,
    Send,
    Step,
    dependencies,
    reads,
    writes,
)

__all__ = ["Event", "Link", "Network", "Price", "price"]

KINDS = ("inside", "between", "shared")

Event = tuple[int, int, str, float, float]  # rank, step number, kind, start and end in seconds


@dataclass(frozen=True)
class Link:
    """A kind of link, the same in both directions at once."""

    latency: float  # seconds
    bandwidth: float  # bytes a second, of a port
    receive: float = 0.0  # seconds a byte that the receiver's processor is busy copying


@dataclass(frozen=True)
class Network:
    """The figures of a machine."""

    inside: Link  # between ranks of one node; every rank has a port of its own
    between: Link | None = None  # between nodes; a port for each node. None: as inside
    combine: float = 0.0  # seconds a byte of the result
    copy: float = 0.0  # seconds a byte
    shared: float = 0.0  # seconds a byte of the result, where a step reads or writes a peer's span
    message: float = 0.0  # seconds of the processor to start a send or a receive


@dataclass
class Price:
    """What `price` finds, by rank."""

    seconds: list[float]  # when each rank is done
    bytes: dict[str, list[int]]  # sent, by kind of link; "shared": touched in peers' spans
    messages: dict[str, list[int]]  # sent, by kind of link; "shared": meetings
    timeline: list[Event] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds until the last rank is done."""
        return max(self.seconds, default=0.0)


def price(
    schedules: Sequence[Sequence[Step]],
    network: Network,
    *,
    nodes: Sequence[int] | None = None,
    item: int = 4,
    timeline: bool = False,
) -> Price:
    """The cost of the schedules of all ranks, which must pass `check`.

    Args:
        schedules: the steps of every rank.
        network: latencies, bandwidths, rates.
        nodes: the number of each rank's node; None if all are on one.
        item: bytes of an element.
        timeline: whether to note when each step began and ended.

    A transfer's time is from when both sides have come to it. A `Meet` takes the latency inside a
    node ceil(log2(ranks)) times after the last rank has come (a dissemination barrier). Raises
    ValueError where the ranks wait for each other for ever.
    """
    return _Clockwork(schedules, network, nodes, item, timeline).run()


class _Transfer:
    """A send and the receive it meets."""

    __slots__ = ("done", "kind", "recv", "send", "sent", "size", "started", "waiters")

    def __init__(self) -> None:
        self.send = self.recv = -1  # step numbers
        self.sent = self.started = 0.0  # when the sender, and the receiver, came to it
        self.size, self.kind = 0, 0
        self.done = -1.0
        self.waiters: list[int] = []  # ranks that are held up


class _Clockwork:
    """Every rank has a clock of its own and runs ahead until it has to wait for a transfer."""

    def __init__(
        self,
        schedules: Sequence[Sequence[Step]],
        network: Network,
        nodes: Sequence[int] | None,
        item: int,
        timeline: bool,
    ) -> None:
        size = len(schedules)
        self.schedules, self.network, self.item, self.noted = schedules, network, item, timeline
        self.nodes = [0] * size if nodes is None else list(nodes)
        if len(self.nodes) != size:
            raise ValueError(f"nodes has {len(self.nodes)} entries for {size} ranks")
        self.waits = [dependencies(steps) for steps in schedules]
        self.at, self.clock, self.missing = [0] * size, [0.0] * size, [0] * size
        self.pairs: dict[tuple[int, int], list[_Transfer]] = defaultdict(list)
        self.begun: dict[tuple[int, int, bool], int] = defaultdict(int)
        self.pending: list[dict[int, _Transfer]] = [{} for _ in schedules]
        self.met: list[int] = []
        self.links = (network.inside, network.between or network.inside)
        far = self.links[1].bandwidth
        self.ports = [(Port(network.inside.bandwidth), Port(network.inside.bandwidth))
                      for _ in range(size)]  # fmt: skip
        self.doors = {node: (Port(far), Port(far)) for node in self.nodes}
        self.events: list[tuple[float, int, int, Flow]] = []
        self.count = 0
        self.result = Price(
            [0.0] * size, {k: [0] * size for k in KINDS}, {k: [0] * size for k in KINDS}
        )

    def run(self) -> Price:
        for rank in range(len(self.schedules)):
            self._advance(rank)
        while self.events:
            now = self.events[0][0]
            limit = now + 1e-10 * now + 1e-13  # what ought to be at once, but for rounding
            dirty: list[Port] = []
            over: list[Flow] = []
            while self.events and self.events[0][0] <= limit:
                _, _, version, flow = heappop(self.events)
                if version < 0 and flow.remaining > 0:
                    for port in flow.ports:
                        port.flows[flow] = None
                    dirty += flow.ports
                elif version in (flow.version, -1):
                    for port in flow.ports:
                        port.flows.pop(flow, None)
                    dirty += flow.ports
                    over.append(flow)
            for flow in over:
                self._arrived(flow.content, now)
            for flow in share(dirty, now):
                self._put(now + flow.remaining / flow.rate, flow.version, flow)
        stuck = [r for r, steps in enumerate(self.schedules) if self.at[r] <= len(steps)]
        if stuck:
            raise ValueError(f"the schedules have no end: rank {stuck[0]} waits for ever")
        self.result.timeline.sort(key=lambda event: (event[0], event[3]))
        return self.result

    def _put(self, time: float, version: int, flow: Flow) -> None:
        self.count += 1
        heappush(self.events, (time, self.count, version, flow))

    def _arrived(self, transfer: _Transfer, now: float) -> None:
        transfer.done = now
        for rank in transfer.waiters:
            self.missing[rank] -= 1
            self.clock[rank] = max(self.clock[rank], now)
            if self.missing[rank] == 0:
                self._advance(rank)

    def _advance(self, rank: int) -> None:
        """Go on until a transfer is not over, or the others have not come to a `Meet`."""
        steps, waits = self.schedules[rank], self.waits[rank]
        while self.at[rank] < len(steps):
            number = self.at[rank]
            if waits[number] and not self._over(rank, waits[number]):
                return
            step = steps[number]
            self.at[rank] += 1
            if isinstance(step, Send | Recv):
                self._begin(rank, number, step)
            elif isinstance(step, Meet):
                self.met.append(rank)
                self.result.messages["shared"][rank] += 1
                if len(self.met) == len(self.schedules):
                    self._meet(number)
                return
            else:
                self._compute(rank, number, step)
        if self.at[rank] == len(steps) and self._over(rank, tuple(self.pending[rank])):
            self.at[rank] += 1  # past the end
            self.result.seconds[rank] = self.clock[rank]

    def _over(self, rank: int, numbers: tuple[int, ...]) -> bool:
        """Whether these transfers are over; if not, the rank is woken when they are."""
        pending = self.pending[rank]
        for number in numbers:
            transfer = pending[number]
            if transfer.done < 0:
                transfer.waiters.append(rank)
                self.missing[rank] += 1
        if self.missing[rank]:
            return False
        for number in numbers:
            transfer = pending.pop(number)
            step = self.schedules[rank][number]
            arrives = isinstance(step, Recv)
            self.clock[rank] = max(self.clock[rank], transfer.done)
            if arrives:
                self.clock[rank] += transfer.size * self.links[transfer.kind].receive
            begin = max(transfer.sent, transfer.started)
            self._note(rank, number, "recv" if arrives else "send", begin, transfer.done)
        return True

    def _begin(self, rank: int, number: int, step: Send | Recv) -> None:
        self.clock[rank] += self.network.message
        sends = isinstance(step, Send)
        peer = step.to if isinstance(step, Send) else step.source
        pair = (rank, peer) if sends else (peer, rank)
        nth = self.begun[*pair, sends]
        self.begun[*pair, sends] += 1
        if nth == len(self.pairs[pair]):
            self.pairs[pair].append(_Transfer())
        transfer = self.pairs[pair][nth]
        self.pending[rank][number] = transfer
        if sends:
            transfer.send, transfer.sent = number, self.clock[rank]
            transfer.size = len(step.span) * self.item
            transfer.kind = int(self.nodes[rank] != self.nodes[peer])
            self.result.bytes[KINDS[transfer.kind]][rank] += transfer.size
            self.result.messages[KINDS[transfer.kind]][rank] += 1
        else:
            transfer.recv, transfer.started = number, self.clock[rank]
        if transfer.send >= 0 and transfer.recv >= 0:
            start = max(transfer.sent, transfer.started)
            flow = Flow(transfer, transfer.size, self._route(*pair))
            self._put(start + self.links[transfer.kind].latency, -1, flow)

    def _route(self, sender: int, receiver: int) -> tuple[Port, ...]:
        up, down = self.ports[sender][0], self.ports[receiver][1]
        here, there = self.nodes[sender], self.nodes[receiver]
        if here == there:
            return up, down
        return up, self.doors[here][0], self.doors[there][1], down

    def _compute(self, rank: int, number: int, step: Combine | Copy) -> None:
        spans = reads(step) + writes(step)
        size = len(step.into) * self.item
        foreign = sum(span.rank not in (OWN, rank) for span in spans)
        rate = self.network.copy if isinstance(step, Copy) else self.network.combine
        begin = self.clock[rank]
        self.clock[rank] += size * (self.network.shared if foreign else rate)
        self.result.bytes["shared"][rank] += size * foreign
        kind = "copy" if isinstance(step, Copy) else "combine"
        self._note(rank, number, kind, begin, self.clock[rank])

    def _meet(self, number: int) -> None:
        """All have come."""
        met, self.met = self.met, []
        rounds = (len(met) - 1).bit_length()
        now = max(self.clock) + rounds * self.network.inside.latency
        for rank in met:
            self._note(rank, self.at[rank] - 1, "meet", self.clock[rank], now)
            self.clock[rank] = now
        for rank in met:
            self._advance(rank)

    def _note(self, rank: int, number: int, kind: str, start: float, end: float) -> None:
        if self.noted:
            self.result.timeline.append((rank, number, kind, start, end))
