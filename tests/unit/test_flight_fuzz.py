"""What comes over a watcher's sockets may be anything: it is dropped, and counted."""

import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from long import LONG

from hpcpar.apart.links import LONGEST, Line

EXAMPLES = 10_000 if LONG else 300
ANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@ANY
@given(st.binary(max_size=200))
def test_any_bytes_on_a_line(data):
    here, there = socket.socketpair()
    line = Line(here)
    there.sendall(data + b"\n" + b"[" * 100_000 + b'\n{"ask": 1}\n')
    there.close()
    messages = []
    try:
        while True:
            messages += line.receive()
    except EOFError:
        pass
    line.close()
    assert messages[-1] == {"ask": 1} and line.dropped >= 1
    assert line.dropped + len(messages) == data.count(b"\n") + 3


def test_a_line_without_an_end_is_cut_off():
    here, there = socket.socketpair()
    line, piece, sent = Line(here), b"x" * (1 << 16), 0
    try:
        while sent < 2 * LONGEST:
            there.sendall(piece)
            sent += len(piece)
            line.receive()
    except EOFError:
        assert LONGEST <= sent < 2 * LONGEST
    else:
        raise AssertionError("it took everything")
    finally:
        here.close()
        there.close()
