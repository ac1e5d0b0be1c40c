"""The pricer: against sums done by hand, the laws of sharing, and closed forms."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.schedule import Combine, Copy, Recv, Send, Span
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.closed import closed_allreduce
from hpcpar.schedule.flows import Flow, Port, share
from hpcpar.schedule.price import Link, Network, price
from hpcpar.schedule.steps import Meet

LINK = Link(1e-3, 1000.0)  # a second for 1,000 bytes
NETWORK = Network(LINK, Link(2e-3, 500.0), combine=1e-4, copy=1e-5, shared=3e-4)
WHOLE = 1 << 40


def x(start, stop, rank=-1):
    return Span("x", start, stop, rank)


def allreduce(algorithm, size, count, nodes=None, segment=WHOLE):
    return [
        schedules.allreduce(rank, size, count, algorithm, segment=segment, nodes=nodes)
        for rank in range(size)
    ]


def test_one_message():
    found = price([[Send(1, x(0, 250))], [Recv(0, x(0, 250))]], NETWORK)
    assert found.seconds == pytest.approx([1.001, 1.001])
    assert found.bytes["inside"] == [1000, 0] and found.messages["inside"] == [1, 0]
    far = price([[Send(1, x(0, 250))], [Recv(0, x(0, 250))]], NETWORK, nodes=(0, 1))
    assert far.seconds == pytest.approx([2.002, 2.002])
    assert far.bytes["between"] == [1000, 0] and far.bytes["inside"] == [0, 0]


def test_a_transfer_begins_when_both_have_come():
    late = [Copy(x(0, 1000), Span("y", 0, 1000)), Recv(0, Span("z", 0, 250))]
    found = price([[Send(1, x(0, 250))], late], NETWORK, timeline=True)
    assert found.total == pytest.approx(0.04 + 1.001)
    assert [event[2:] for event in found.timeline if event[0] == 0] == [
        ("send", pytest.approx(0.04), pytest.approx(1.041))
    ]


def test_two_flows_share_a_port_and_both_directions_do_not():
    out = [Send(1, x(0, 250)), Send(2, x(0, 250))]
    found = price([out, [Recv(0, x(0, 250))], [Recv(0, x(0, 250))]], NETWORK)
    assert found.total == pytest.approx(2.001)
    swap = [[Recv(1 - r, x(250, 500)), Send(1 - r, x(0, 250))] for r in range(2)]
    assert price(swap, NETWORK).total == pytest.approx(1.001)


def test_the_ranks_of_a_node_share_its_link():
    steps = [[Send(2, x(0, 250))], [Send(3, x(0, 250))], [Recv(0, x(0, 250))], [Recv(1, x(0, 250))]]
    assert price(steps, NETWORK, nodes=(0, 0, 1, 1)).total == pytest.approx(2.0 + 2.002)
    assert price(steps, NETWORK, nodes=(0, 1, 2, 3)).total == pytest.approx(2.002)


def test_work_goes_on_while_messages_are_under_way():
    busy = Combine(Span("y", 0, 1000), Span("y", 0, 1000), Span("z", 0, 1000))  # 0.4 s
    first = [Send(1, x(0, 250)), busy]
    then = [Recv(0, x(0, 250)), busy]
    assert price([first, then], NETWORK).total == pytest.approx(1.001)
    waits = [Recv(0, x(0, 250)), Combine(x(0, 250), x(0, 250), Span("z", 0, 250))]
    assert price([first, waits], NETWORK).seconds[1] == pytest.approx(1.001 + 0.1)


def test_starting_and_receiving_take_the_processor():
    network = Network(Link(0.0, 1000.0, receive=2e-3), message=0.25)
    found = price([[Send(1, x(0, 250))], [Recv(0, x(0, 250))]], network)
    assert found.seconds == pytest.approx([1.25, 3.25])


def test_meetings_and_what_is_touched_in_place():
    steps = [[Meet(), Copy(x(0, 100), x(0, 100, 1 - rank)), Meet()] for rank in range(2)]
    found = price(steps, NETWORK)
    assert found.seconds == pytest.approx([2e-3 + 0.12] * 2)
    assert found.bytes["shared"] == [400, 400] and found.messages["shared"] == [2, 2]


def test_schedules_without_an_end_are_said_to_be():
    with pytest.raises(ValueError, match="rank 0 waits for ever"):
        price([[Recv(1, x(0, 1))], []], NETWORK)
    with pytest.raises(ValueError, match="rank 0 waits for ever"):
        price([[Meet()], []], NETWORK)
    with pytest.raises(ValueError, match="1 entries for 2 ranks"):
        price([[], []], NETWORK, nodes=(0,))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(5, 9)), min_size=1, max_size=12),
       st.lists(st.integers(1, 50), min_size=10, max_size=10))  # fmt: skip
def test_sharing_is_max_min_fair(routes, bandwidths):
    """Every flow passes a full port where none is faster."""
    ports = [Port(float(bandwidth)) for bandwidth in bandwidths]
    flows = [Flow(None, 100, (ports[up], ports[down])) for up, down in routes]
    for flow in flows:
        for port in flow.ports:
            port.flows[flow] = None
    share(ports, 0.0)
    for port in ports:
        assert sum(flow.rate for flow in port.flows) <= port.bandwidth * (1 + 1e-9)
    for flow in flows:
        assert any(
            sum(other.rate for other in port.flows) >= port.bandwidth * (1 - 1e-6)
            and flow.rate >= max(other.rate for other in port.flows) * (1 - 1e-6)
            for port in flow.ports
        )


@pytest.mark.parametrize("size", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("algorithm", ["ring", "direct", "halving"])
def test_closed_forms(size, algorithm):
    count = 64 * 1024
    found = price(allreduce(algorithm, size, count), NETWORK).total
    assert found == pytest.approx(closed_allreduce(algorithm, size, 4 * count, NETWORK))


@pytest.mark.parametrize(("number", "local"), [(2, 2), (4, 4), (8, 2), (16, 1), (16, 8)])
def test_closed_form_of_hierarchical(number, local):
    count, size = 3 * 64 * 1024, number * local
    nodes = tuple(rank // local for rank in range(size))
    found = price(allreduce("hierarchical", size, count, nodes), NETWORK, nodes=nodes).total
    closed = closed_allreduce("hierarchical", size, 4 * count, NETWORK, local=local)
    assert found == pytest.approx(closed)


def test_there_are_no_formulas_for_what_they_do_not_hold_for():
    for algorithm, size, local in (
        ("halving", 6, None),
        ("hierarchical", 6, 2),
        ("hierarchical", 12, 3),
        ("bush", 8, 2),
    ):
        with pytest.raises(ValueError, match="no formula"):
            closed_allreduce(algorithm, size, 100, NETWORK, local=local)


def test_blocks_keep_the_link_between_nodes_busy():
    nodes, count = (0, 0, 1, 1), 1 << 22
    network = Network(Link(1e-6, 5e9), Link(3e-5, 125e6), combine=1e-10)
    steps = allreduce("hierarchical", 4, count, nodes, segment=1 << 18)
    least = 4 * count / 125e6
    assert least < price(steps, network, nodes=nodes).total < 1.01 * least
    for algorithm in ("chain", "hierarchical"):
        steps = [
            schedules.bcast(r, 4, 4 * count, 0, algorithm, segment=1 << 18, nodes=nodes)
            for r in range(4)
        ]
        assert price(steps, network, nodes=nodes).total < 1.01 * 4 * least


@pytest.mark.parametrize("size", [3, 5, 13])
def test_halving_sends_the_least_for_every_number_of_ranks(size):
    count = 1 << 20
    found = price(allreduce("halving", size, count), NETWORK)
    total = sum(found.bytes["inside"])
    assert total == pytest.approx(2 * (size - 1) * count * 4, rel=0.01)
    assert max(found.messages["inside"]) <= 4 * size.bit_length()


def test_a_timeline_is_what_each_rank_did():
    steps = allreduce("halving", 5, 1 << 16)
    found = price(steps, NETWORK, timeline=True)
    assert len(found.timeline) == sum(map(len, steps))
    for rank, own in enumerate(steps):
        events = [event for event in found.timeline if event[0] == rank]
        assert {event[1] for event in events} == set(range(len(own)))
        assert all(0 <= start <= end <= found.total for _, _, _, start, end in events)
        busy = sorted(event[3:] for event in events if event[2] == "combine")
        assert all(a[1] <= b[0] for a, b in pairwise(busy))
