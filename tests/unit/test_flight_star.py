"""Watchers of several nodes: who may call the head, and what it hears from them."""

import json
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from long import LONG

from hpcpar.comm.flight.rows import Row, to_json
from hpcpar.comm.flight.star import Star, reach

TOKEN = "00" * 16
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = ["rows", "number", "hang", "ask", "rank", "node", "proof", "nonce", "end", "kill", "collect"]
MESSAGES = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5)


@pytest.fixture
def star():
    door = socket.create_server(("127.0.0.1", 0))
    found = Star(TOKEN, door, others=1)
    yield found
    for line in [*found.lines]:
        line.close()
    found.selector.close()
    door.close()


def call(star, token=TOKEN, node=1):
    """The other end of a line to the head, or None; the head hears meanwhile."""
    found = []
    at = ["127.0.0.1"], star.door.getsockname()[1]
    caller = threading.Thread(target=lambda: found.append(reach(token, node, *at)))
    caller.start()
    while caller.is_alive():
        star.turn(0.01)
    return found[0]


def test_rows_are_collected(star):
    other = call(star)
    asked = star.ask_for_rows()
    assert len(asked) == 1
    (question,) = other.receive()
    rows = [to_json(Row(5, "far"))]
    other.send({"rows": rows, "number": question["collect"] - 1})  # too late for an earlier one
    other.send({"rows": rows, "number": question["collect"]})
    (row,) = star.rows(asked)
    assert (row.rank, row.host) == (5, "far")
    other.close()


def test_a_node_that_is_gone_is_not_waited_for(star):
    other = call(star)
    asked = star.ask_for_rows()
    other.send({"ask": ["g", "collective", 1], "rank": 5})
    other.close()
    assert star.rows(asked) == []
    assert star.lines == {} and star.heard == []  # nobody is there who could be answered


def test_other_messages_wait_until_somebody_reads_them(star):
    other = call(star)
    message = {"hang": ["g", "collective", 1], "rank": 5}
    other.send(message)
    while not star.heard:
        star.turn(0.01)
    ((line, heard),) = star.heard
    assert heard == message and line.offer({"rank": 5})
    assert other.receive() == [{"rank": 5}]
    star.end()
    assert other.receive() == [{"end": True}]
    other.close()


def test_who_has_not_the_token_is_not_heard(star):
    assert call(star, token="01" * 16) is None
    with socket.create_connection(star.door.getsockname()) as stranger:
        stranger.sendall(b'{"hang": ["g", "collective", 1], "rank": 5}\n' * 2)
        star.turn(1)
        while star.lines:
            star.turn(0.01)
    assert star.heard == []


def test_a_head_without_the_token_is_not_believed():
    with socket.create_server(("127.0.0.1", 0)) as door:
        star = Star("01" * 16, door, others=1)
        assert call(star) is None
        assert all(star.lines.values())  # none has proven anything
        star.selector.close()


def test_a_watcher_that_is_no_head_has_no_rows():
    alone = Star(TOKEN, None, others=0)
    assert alone.rows(alone.ask_for_rows()) == []
    alone.end()
    alone.selector.close()


@settings(
    max_examples=10_000 if LONG else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=st.lists(MESSAGES | JSON, min_size=1, max_size=4))
def test_any_message_of_a_node_and_of_a_stranger(star, messages):
    before = star.dropped
    other = call(star)
    with socket.create_connection(star.door.getsockname()) as stranger:
        for message in messages:
            text = json.dumps(message).encode() + b"\n"
            for sender in (other.socket, stranger):
                try:
                    sender.sendall(text)
                except OSError:  # it was sent away
                    continue
        other.close()
        while any(not nonce for nonce in star.lines.values()):
            star.turn(0.01)
    while star.lines:
        star.turn(0.01)
    assert star.dropped >= before
    assert all(isinstance(message, dict) for _, message in star.heard)
