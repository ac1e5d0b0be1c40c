"""A communicator's part in the flight recorder."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from hpcpar.comm.flight.layout import COLLECTIVE, MESSAGE
from hpcpar.comm.flight.reading import read_flight
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.comm.flight.rows import make_row
from hpcpar.comm.flight.table import table
from hpcpar.comm.flight.verdict import verdict
from hpcpar.comm.flight.watch import Told, Watch
from hpcpar.errors import UserError

__all__ = ["Flight", "GroupInfo"]


@dataclass(frozen=True)
class GroupInfo:
    """A communicator, for the recorder."""

    identity: int  # the same on all its ranks
    members: list[int]  # world ranks
    number: int  # this rank's
    timeout: float  # seconds
    watch: int  # the id of the watch over it; 0 for none


class Flight:
    """What a communicator has of the flight recorder.

    >>> entry = flight.recorder.begin(flight.collective, operation, number, size, root, site)

    Attributes: recorder; collective and message, the slots in it that count this communicator's
    calls; folder, where the recorders of the run are, or None.
    """

    def __init__(
        self, recorder: Recorder, group: GroupInfo, watch: Watch | None, folder: Path | None
    ) -> None:
        self.recorder, self.folder = recorder, folder
        self._watch, self._identity = watch, group.identity
        self._handle = recorder.open_group(
            group.identity, group.members, group.number, group.timeout, group.watch
        )
        self.collective, self.message = self._handle + COLLECTIVE, self._handle + MESSAGE

    def verdict(self, kind: str, number: int) -> Told:
        """Why a call of this communicator does not end, from what all ranks are doing now.

        To be asked while the call is still under way, before `Recorder.give_up`. Ranks that wait in
        the same hang are told the same, and `first` is True on one of them. Takes about a second,
        at most six. Where the watcher does not answer, the recorders of this node are told of.

        Args:
            kind: collective or message.
            number: the call's number of that kind.
        """
        key = self._identity, kind, number
        told = self._watch.ask(key) if self._watch is not None else None
        if told is None:
            rows = [make_row(self.recorder.snapshot(), time.monotonic_ns())]
            if self.folder is not None:
                with contextlib.suppress(UserError):
                    rows = read_flight(self.folder)
            told = Told(verdict(rows, (self.recorder.rank, key)), table(rows), True)
        return told

    def recovers(self) -> None:
        """From now on ranks that are stopped or hung are killed, and the others go on."""
        if self._watch is not None:
            self._watch.recovers()

    def close(self) -> None:
        """Forget the communicator; recorder and watch stay with the process."""
        self.recorder.close_group(self._handle)
