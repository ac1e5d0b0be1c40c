"""The star of a job's watchers: the head's lines to those of other nodes, and how they call it.

Both ends prove to each other that they have the job's token before anything else is heard.
"""

import contextlib
import os
import selectors
import socket
import time
from typing import Any

from hpcpar.apart.links import MALFORMED, Line, Message, proof
from hpcpar.comm.flight.rows import Row, from_json

__all__ = ["Star", "reach"]

NODES_LIMIT = 3.0  # seconds for other nodes' watchers to call
ROWS_LIMIT = 3.0  # seconds for the rows of other nodes
CONNECT_LIMIT = 5.0  # seconds to reach the head


class Star:
    """What the head has of the star; a watcher that is not the head has an empty one.

    Args:
        token: of the job.
        door: a listening socket; None where nobody can call.
        others: nodes whose watchers will.

    Attributes: selector, of all its sockets: `turn` when there is something to read; heard,
    messages that are not about the star itself, with the line that an answer goes to.
    """

    def __init__(self, token: str, door: socket.socket | None, others: int) -> None:
        self.token, self.door, self.others = token, door, others
        self.selector = selectors.EpollSelector()
        self.heard: list[tuple[Line, Message]] = []
        self.lines: dict[Line, str] = {}  # with a nonce until it is answered
        self.dropped = 0  # messages that made no sense
        self.collected = 0
        self.arrived: dict[Line, list[Row]] = {}
        self.born = time.monotonic()
        if door is not None:
            door.settimeout(0.1)
            self.selector.register(door, selectors.EVENT_READ, self._greet)

    def turn(self, limit: float = 0.0) -> None:
        """Read what has come, or comes within `limit` seconds."""
        for key, _ in self.selector.select(limit):
            key.data(key.fileobj)

    def ask_for_rows(self) -> list[Line]:
        """Ask all other nodes; they have a moment to call after the start. Give it to `rows`."""
        while len(self._linked()) < self.others and time.monotonic() - self.born < NODES_LIMIT:
            self.turn(0.1)
        self.collected += 1
        self.arrived = {}
        message = {"collect": self.collected}
        return [line for line in self._linked() if line.offer(message)]

    def rows(self, asked: list[Line]) -> list[Row]:
        """The rows of the nodes that were asked, as far as they come in time."""
        deadline = time.monotonic() + ROWS_LIMIT
        while any(line in self.lines and line not in self.arrived for line in asked):
            if (left := deadline - time.monotonic()) <= 0:
                break
            self.turn(left)
        return [row for rows in self.arrived.values() for row in rows]

    def end(self) -> None:
        """Have the ranks of all other nodes ended."""
        for line in list(self.lines):
            line.offer({"end": True})

    def kill(self, ranks: list[int]) -> None:
        """Have ranks killed, wherever they are."""
        for line in list(self.lines):
            line.offer({"kill": ranks})

    def _linked(self) -> list[Line]:
        return [line for line, nonce in self.lines.items() if not nonce]

    def _greet(self, _: object) -> None:
        assert self.door is not None
        try:
            connection, _ = self.door.accept()
        except OSError:
            return
        line, nonce = Line(connection), os.urandom(16).hex()
        self.lines[line] = nonce
        self.selector.register(line, selectors.EVENT_READ, self._read)
        line.offer({"nonce": nonce})

    def _read(self, line: Any) -> None:
        try:
            messages = line.receive()
        except EOFError:
            self._drop(line)
            return
        for message in messages:
            try:
                self._hear(line, message)
            except MALFORMED:
                self.dropped += 1

    def _hear(self, line: Line, message: Message) -> None:
        if line not in self.lines:  # dropped meanwhile
            return
        if nonce := self.lines[line]:
            wanted = proof(self.token, nonce, f"node {message.get('node')}")
            if message.get("proof") != wanted:
                self._drop(line)
                return
            self.lines[line] = ""
            line.offer({"proof": proof(self.token, str(message.get("nonce")), "head")})
        elif message.get("rows") is not None:
            if message["number"] == self.collected:
                self.arrived[line] = [from_json(row) for row in message["rows"]]
        else:
            self.heard.append((line, message))

    def _drop(self, line: Line) -> None:
        if self.lines.pop(line, None) is not None:
            self.selector.unregister(line)
            line.close()
            self.heard = [(other, message) for other, message in self.heard if other is not line]


def reach(token: str, node: int, hosts: list[str], port: int) -> Line | None:
    """A line from the watcher of a node to the head, if it can be had."""
    for host in hosts:
        with contextlib.suppress(OSError, EOFError, LookupError, TypeError):
            line = Line(socket.create_connection((host, port), CONNECT_LIMIT / len(hosts)))
            nonce = line.receive()[0]["nonce"]
            mine = os.urandom(16).hex()
            line.send({"proof": proof(token, nonce, f"node {node}"), "node": node, "nonce": mine})
            if line.receive()[0]["proof"] == proof(token, mine, "head"):
                return line
            line.close()
    return None
