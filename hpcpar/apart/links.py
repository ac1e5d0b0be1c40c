"""Sockets that carry JSON, a line a message; between nodes, who connects proves that it may."""

import contextlib
import hashlib
import json
import os
import socket
import struct
from typing import Any

__all__ = ["MALFORMED", "Line", "addresses", "connect", "listen", "peer", "proof"]

Message = dict[str, Any]

SEND_LIMIT = 2.0  # seconds
LONGEST = 1 << 22  # bytes of a line: the rows of a node with a thousand ranks
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)  # to be dropped


class Line:
    """A connected socket. `receive` is to be called when there is something to read.

    Attributes: dropped, lines that came and were no JSON objects.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self.dropped = connection, 0
        self._rest = b""
        connection.settimeout(SEND_LIMIT)

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Raises OSError when the other end does not take it."""
        data = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [data], descriptors) if descriptors else 0
        self.socket.sendall(data[sent:])

    def offer(self, message: Message) -> bool:
        """`send`; False when the other end does not take it."""
        try:
            self.send(message)
        except OSError:
            return False
        return True

    def receive(self) -> list[Message]:
        """The messages that have arrived whole.

        Raises EOFError when the other end is gone, or sends a line that does not end.
        """
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._split(data)

    def receive_first(self, count: int) -> tuple[list[Message], list[int]]:
        """`receive`, with up to `count` file descriptors that came along."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, count)
        except OSError:
            data, descriptors = b"", []
        if not data:
            raise EOFError
        return self._split(data), list(descriptors)

    def _split(self, data: bytes) -> list[Message]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST:
            raise EOFError
        messages = []
        for line in whole:
            message = _parse(line)
            if message is None:
                self.dropped += 1
            else:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _parse(line: bytes) -> Message | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def listen(name: str) -> socket.socket:
    """A socket for the processes of this node: it has a name, but no file."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0hpcpar-{name}")
    listener.listen(4096)
    return listener


def connect(name: str) -> Line:
    """A line to who listens under this name; raises OSError where nobody does, or another user."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(SEND_LIMIT)
        connection.connect(f"\0hpcpar-{name}")
        if peer(connection)[1] != os.getuid():
            raise OSError(f"another user has taken the name of the socket hpcpar-{name}")
    except OSError:
        connection.close()
        raise
    return Line(connection)


def proof(token: str, nonce: str, side: str) -> str:
    """What only one who has the token can answer to a nonce (keyed BLAKE2, RFC 7693)."""
    text = f"{side} {nonce}".encode()
    return hashlib.blake2b(text, key=bytes.fromhex(token), digest_size=32).hexdigest()


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, user, _ = struct.unpack("3i", credentials)
    return pid, user


def addresses() -> list[str]:
    """Where other nodes may reach this one: the IPv4 addresses of its interfaces, then its name."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, 0x8915, request)  # SIOCGIFADDR, netdevice(7)
                found.append(socket.inet_ntoa(answer[20:24]))
    found.sort(key=lambda address: address.startswith("127."))  # the loopback last
    return [*found[:8], socket.gethostname()]
