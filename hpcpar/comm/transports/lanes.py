"""Transfers under way by MPI, in order and a few at a time.

MPI matches the messages of a rank to another one by one, in the order in which they were started.
A message from a GPU can start only when the GPU has made it, so transfers stand in lanes: one for
each direction, peer and tag, first in, first out. The first `WINDOW` of a lane are under way.

That the others wait cannot block anybody: both ends have the same transfers in the same order, so
the ones in front never wait for the ones behind.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable
from itertools import islice

from mpi4py import MPI

from hpcpar.comm.transports.mpi import arrived
from hpcpar.comm.transports.stream import Event

__all__ = ["WINDOW", "Lanes", "Transfer"]

# While one chunk is copied to the host, one travels and one is copied to the GPU; the fourth hides
# that the host looks only now and then.
WINDOW = 4


class Transfer(ABC):
    """A message. It is `over` when the runner may go on, or `error` says what went wrong.

    `landed` is the event after which what was received is there, if the host has not seen it.
    """

    expects: int | None = None  # bytes, of a receive

    def __init__(self, channel: MPI.Comm, peer: int, tag: int) -> None:
        self.channel, self.peer, self.tag = channel, peer, tag
        self.over, self.error = False, None  # type: bool, Exception | None
        self.landed: Event | None = None
        self._started = False
        self._request: MPI.Request | None = None

    @abstractmethod
    def start(self) -> None:
        """Take what it needs. Comes first, once."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the message can be handed to MPI."""

    @abstractmethod
    def post(self) -> MPI.Request:
        """Hand it over."""

    @abstractmethod
    def land(self) -> None:
        """MPI is done with it."""

    def gone(self) -> bool:
        """Whether it holds nothing any more that the next of its lane could take."""
        return True

    def advance(self, may_post: bool, status: MPI.Status) -> bool:
        """Go as far as possible; whether the next message of the lane may be handed over."""
        if self.over:
            return True
        if not self._started:
            self._started = True
            self.start()
        if self._request is None:
            if not may_post or not self.ready():
                return False
            self._request = self.post()
        try:
            if arrived(self._request, self.expects, self.peer, status):
                self.land()
                self.over = True
        except Exception as error:  # for the operation it belongs to, not for the one that looks
            self.error, self.over = error, True
        return True


class Lanes:
    """All transfers of a transport."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[Transfer]] = {}
        self._status = MPI.Status()

    def enter(self, transfer: Transfer) -> None:
        """Start a transfer, after those of its lane."""
        key = (transfer.expects is None, id(transfer.channel), transfer.peer, transfer.tag)
        self._lanes.setdefault(key, deque()).append(transfer)
        self.move()

    def move(self) -> None:
        """Let every transfer go as far as it can."""
        for key, lane in tuple(self._lanes.items()):
            may_post = True
            for transfer in islice(lane, WINDOW):
                may_post = transfer.advance(may_post, self._status)
            while lane and lane[0].over and (lane[0].error or lane[0].gone()):
                lane.popleft()
            if not lane:
                del self._lanes[key]
