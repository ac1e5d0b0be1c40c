"""A rank's line to the watcher of its node, and the start of that watcher."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpar.comm.flight.links import Line, Message, peer
from hpcpar.comm.flight.verdict import Key

__all__ = ["Told", "Watch", "listen", "start_watcher"]

ASK_LIMIT = 6.0  # seconds: a second for the stacks of a node, three for other nodes, and some

# The watcher needs neither MPI nor NumPy, so the packages above it are stood in for.
_PROGRAM = """# the flight watcher of hpcpar
import sys, types
for name in "hpcpar", "hpcpar.comm", "hpcpar.comm.flight":
    package = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from hpcpar.comm.flight.watcher import main
main()
"""


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
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ASK_LIMIT)
        connection.connect(_address(name))
        if peer(connection)[1] != os.getuid():
            connection.close()
            raise OSError("another user has taken the name of the flight watcher's socket")
        self._line, self._lock = Line(connection), threading.Lock()
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


def listen(name: str) -> socket.socket:
    """The socket on which the ranks of a node reach their watcher: it has a name, but no file."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(_address(name))
    listener.listen(4096)
    return listener


def start_watcher(
    config: dict[str, Any], listeners: list[socket.socket]
) -> subprocess.Popen[bytes]:
    """Start the watcher of a node, and do not wait for it: the sockets take calls already.

    It has a session of its own, so that what ends the ranks leaves it to tell the story; of the
    rank's files it keeps standard error alone.
    """
    root = str(Path(__file__).resolve().parents[3])
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno() for listener in listeners],
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(config).encode())
    return process


def _address(name: str) -> str:
    return f"\0hpcpar-flight-{name}"
