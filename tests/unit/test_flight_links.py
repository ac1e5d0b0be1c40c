"""What the watchers say to each other, and stacks that ranks have written."""

import faulthandler
import os
import signal
import socket
import threading

import pytest

from hpcpar.apart.links import Line, addresses, peer, proof
from hpcpar.comm.flight import signals


@pytest.fixture
def ends():
    left, right = map(Line, socket.socketpair())
    yield left, right
    left.close()
    right.close()


def receive(line: Line, count: int) -> list:
    messages: list = []
    while len(messages) < count:
        messages += line.receive()
    return messages


def test_messages_of_any_length_arrive_whole(ends):
    sent = [{"rows": ["x" * 3_000_000]}, {"a": 1}, {"b": "zwölf\n"}]
    sender = threading.Thread(target=lambda: [ends[0].send(message) for message in sent])
    sender.start()
    assert receive(ends[1], 3) == sent
    sender.join()


def test_nonsense_is_passed_over(ends):
    ends[0].socket.sendall(b"\xff\xfe\n[1]\n{\n{}\n")
    assert receive(ends[1], 1) == [{}]


def test_files_come_along(ends):
    descriptor = os.memfd_create("test")
    ends[0].send({"hello": 1}, [descriptor, descriptor])
    messages, descriptors = ends[1].receive_first(2)
    assert messages == [{"hello": 1}]
    os.write(descriptor, b"seen")
    assert [os.pread(number, 9, 0) for number in descriptors] == [b"seen"] * 2
    for number in (descriptor, *descriptors):
        os.close(number)


def test_the_end_is_told(ends):
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()
    with pytest.raises(EOFError):
        ends[1].receive_first(2)


def test_who_is_there(ends):
    assert peer(ends[0].socket) == (os.getpid(), os.getuid())


def test_only_the_token_makes_the_proof():
    token, nonce = "00" * 16, "12"
    known = proof(token, nonce, "head")
    others = [proof("01" * 16, nonce, "head"), proof(token, "13", "head"), proof(token, nonce, "")]
    assert known == proof(token, nonce, "head") and known not in others


def test_a_node_can_be_reached_at_one_of_its_addresses():
    found = addresses()
    assert "127.0.0.1" in found and found[-1] == socket.gethostname()
    with socket.create_server(("", 0)) as door:
        for address in found[:-1]:
            socket.create_connection((address, door.getsockname()[1]), 5).close()


def test_where_a_rank_is(tmp_path):
    """The frames of faulthandler's text, and which of them is the user's."""
    with open(tmp_path / "stack", "w+") as file:
        faulthandler.dump_traceback(file, all_threads=False)
        file.seek(0)
        stack = signals.frames(file.read())
    assert stack[0].startswith(f"{__file__}:")
    assert signals.position(stack) == (stack[0], "")
    inside = signals.__file__ + ":12"
    assert signals.position([inside, *stack]) == (stack[0], inside)
    assert signals.position([]) == ("", "")


def test_no_handler_of_the_program_is_replaced(tmp_path):
    old = signal.signal(signals.STACK_SIGNAL, lambda *_: None)
    older = signal.signal(signals.END_SIGNAL, lambda *_: None)
    try:
        assert signals.take(2) == []
    finally:
        signal.signal(signals.STACK_SIGNAL, old)
        signal.signal(signals.END_SIGNAL, older)
