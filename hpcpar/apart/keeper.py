"""The keeper: holds memory of the ranks of a node while a job is started again.

A rank hands it the descriptor of a memory that has no file (memfd_create(2)), and goes on writing
there. When the rank is gone the memory is not: the ranks of the next job are told the descriptors,
and open them through /proc. It ends with the launcher that has started it; on other nodes, where
ranks have started it, when their run has come to its end or none of them is left for a while.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import time
from typing import Any

from hpcpar.apart.links import MALFORMED, Line, Message, connect, listen, peer
from hpcpar.apart.start import start_apart

__all__ = ["Keeper", "start_keeper", "to_keeper"]

LOOK = 0.5  # seconds
ALONE = 180.0  # seconds without any rank: hosts are looked for, and MPI starts


def start_keeper(job: str, parent: int = 0) -> int:
    """Start one for the ranks of a job here; its process id. Raises OSError where there is one.

    Args:
        parent: the process that it ends with; 0 for none.
    """
    with listen(f"keeper-{job}") as listener:
        config = {"socket": listener.fileno(), "parent": parent}
        return start_apart("hpcpar.apart.keeper", config, [listener], quiet=True).pid


def to_keeper(job: str) -> Line:
    """A line to the keeper of this node; raises OSError where there is none."""
    return connect(f"keeper-{job}")


class Keeper:
    """What it is told: {"keep": [generation, number]}, with a descriptor; {"forget": generation},
    all before that; {"list": true}; {"done": true}, nothing will be started again.
    """

    def __init__(self, listener: socket.socket, parent: int) -> None:
        self._listener, self._parent = listener, parent
        self._kept: dict[tuple[int, int], int] = {}
        self._lines: set[Line] = set()
        self._done, self._alone = False, time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Until nobody needs it any more."""
        while not self._over():
            for key, _ in self._selector.select(LOOK):
                if isinstance(key.fileobj, Line):
                    self._hear(key.fileobj)
                else:
                    self._welcome()

    def _over(self) -> bool:
        if self._parent:
            return os.getppid() != self._parent
        if self._lines:
            self._alone = time.monotonic()
            return False
        return self._done or time.monotonic() - self._alone > ALONE

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        line = Line(connection)
        if peer(connection)[1] != os.getuid():
            line.close()
            return
        self._lines.add(line)
        self._selector.register(line, selectors.EVENT_READ)

    def _hear(self, line: Line) -> None:
        try:
            messages, descriptors = line.receive_first(8)
        except EOFError:
            self._selector.unregister(line)
            self._lines.discard(line)
            line.close()
            return
        for message in messages:
            with contextlib.suppress(*MALFORMED, OSError):
                self._obey(line, message, descriptors)
        for descriptor in descriptors:  # that nobody has taken
            os.close(descriptor)

    def _obey(self, line: Line, message: Message, descriptors: list[int]) -> None:
        if "keep" in message:
            generation, number = map(int, message["keep"])
            self._forget({(generation, number)})
            self._kept[generation, number] = descriptors.pop(0)
            line.offer({"kept": message["keep"]})
        elif "forget" in message:
            self._forget({key for key in self._kept if key[0] < int(message["forget"])})
        elif "list" in message:
            line.offer({"kept": [self._token(*item) for item in sorted(self._kept.items())]})
        elif "done" in message:
            self._done = True

    def _token(self, key: tuple[int, int], descriptor: int) -> list[int]:
        """Generation and number; where the memory is, as `HostMemory.open` wants it; its bytes."""
        facts = os.fstat(descriptor)
        place = os.getpid(), descriptor, facts.st_dev, facts.st_ino
        return [*key, *place, facts.st_size]

    def _forget(self, keys: set[tuple[int, int]]) -> None:
        for key in keys & self._kept.keys():
            os.close(self._kept.pop(key))


def main() -> None:
    """Run a keeper by what stands on the standard input."""
    config: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    os.chdir("/")
    Keeper(socket.socket(fileno=config["socket"]), config["parent"]).run()
