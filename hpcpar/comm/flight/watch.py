"""A rank's line to the watcher of its node."""

import contextlib
import threading
import time
from dataclasses import dataclass

from hpcpar.apart.links import Message, connect
from hpcpar.comm.flight.verdict import Key

__all__ = ["Told", "Watch"]

ASK_LIMIT = 6.0  # seconds: a second for the stacks of a node, three for other nodes, and some


@dataclass(frozen=True)
class Told:
    """What is known of a hang: one sentence, the table, and whether this rank is to print them."""

    sentence: str
    table: str
    first: bool
    killed: tuple[int, ...] = ()  # ranks that are gone now, for the others to go on without them


class Watch:
    """A rank's line to its watcher. Raises OSError where there is none.

    `hello` says rank, signals (that it has taken) and folder; the descriptors are the recorder's
    and that of the file for stacks.
    """

    def __init__(self, name: str, hello: Message, descriptors: list[int]) -> None:
        self._line, self._lock = connect(f"flight-{name}"), threading.Lock()
        self._line.send(hello, descriptors)

    def ask(self, key: Key) -> Told | None:
        """What is known of the hang of a call of this rank; None if nobody answers in 6 s."""
        with self._lock, contextlib.suppress(OSError, EOFError):
            self._line.send({"ask": key})
            deadline = time.monotonic() + ASK_LIMIT
            while time.monotonic() < deadline:
                for message in self._line.receive():
                    if tuple(message["ask"]) == key:  # not an answer that came too late
                        return Told(message["sentence"], message["table"], message["first"],
                            tuple(message["killed"]))  # fmt: skip
        return None

    def recovers(self) -> None:
        """Say that the ranks go on without those that are lost."""
        with self._lock, contextlib.suppress(OSError):
            self._line.send({"recovers": True})

    def end(self) -> None:
        """Have all ranks ended: the launcher would leave some alive."""
        with self._lock, contextlib.suppress(OSError):
            self._line.send({"end": True})

    def leave(self, failed: bool) -> None:
        """Say that this process comes to its end."""
        with self._lock, contextlib.suppress(OSError):
            self._line.send({"bye": failed})
