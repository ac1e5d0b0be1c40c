"""Servers and workers under any delays, and without servers that were killed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from long import LONG
from sync_world import World

from hpcpar.sync.roles import Roles
from hpcpar.sync.worker import Worker

PULLS = 1_000_000 if LONG else 20_000
KILLS = 200 if LONG else 40


class Looks:
    """Checks every pull, by what the weights say that they are made of."""

    def __init__(self, workers, staleness):
        self.workers, self.staleness, self.pulls, self.stale = workers, staleness, 0, 0
        self.final = []

    def __call__(self, worker, clock, version, ranges):
        self.pulls += 1
        if self.staleness is None:
            return
        assert version >= clock - 1 - self.staleness, "too old"
        assert all(len(applied) == version * self.workers for applied in ranges), "half an update"
        order = [[w, c] for c in range(1, version + 1) for w in range(self.workers)]
        assert all(applied == order for applied in ranges)
        self.stale += version < clock - 1

    def run(self, seed, servers, clocks, kills=0):
        world = World(seed, self.workers, servers, self.staleness, clocks, kills, self).run()
        assert len(world.finished) == self.workers, "somebody waits for ever"
        return world


@pytest.mark.parametrize("staleness", [0, 3])
def test_no_pull_is_too_old(staleness):
    """Each worker stops at a clock only while others are too far behind."""
    looks, seed = Looks(4, staleness), 0
    while looks.pulls < PULLS / 2:
        looks.run(seed, servers=2, clocks=40)
        seed += 1
    assert (looks.stale > looks.pulls / 10) == (staleness > 0)


@pytest.mark.parametrize("staleness", [0, 2, None])
def test_killed_servers_lose_nothing_that_was_acknowledged(staleness):
    """And nothing is applied twice: all pushes are acknowledged in the end."""
    for seed in range(KILLS):
        servers = 2 + seed % 3
        world = Looks(3, staleness).run(seed, servers, clocks=12, kills=servers - 1)
        expected = sorted([w, c] for c in range(1, 13) for w in range(3))
        (left,) = [world.ranks[rank] for rank in range(3, 3 + servers) if rank not in world.lost]
        assert sorted(left.shards) == list(range(servers))
        for shard in left.shards.values():
            assert sorted(shard.store.applied) == expected and not shard.pending
            assert sorted(shard.store.loaded) == [0, 1, 2], "what it began with is whole"


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 10_000))
def test_any_numbers_of_workers_and_servers(workers, servers, staleness, seed):
    looks = Looks(workers, staleness)
    looks.run(seed, servers, clocks=4)
    assert looks.pulls == 5 * workers


@given(st.integers(1, 6), st.data())
def test_every_range_has_two_holders_while_there_are_two(servers, data):
    roles = Roles(3, servers)
    everybody = [roles.rank(server) for server in range(servers)]
    lost = data.draw(st.lists(st.sampled_from(everybody), unique=True))
    left = [rank for rank in everybody if rank not in lost]
    for number in range(servers):
        holders = roles.holders(number, lost)
        assert len(holders) == min(2, len(left)) and set(holders) <= set(left)
        assert all(number in roles.ranges(rank, lost) for rank in holders)
        if roles.rank(number) in left:
            assert holders[0] == roles.rank(number)


def test_an_update_is_told_once():
    """Also where a range is asked again as it is behind another, or has updates without news."""
    asked = {}
    worker = Worker(0, Roles(1, 2), 2, lambda to, words: asked.update({words["range"]: words}))

    def state(number, version):
        """The answer of a server that has news of all updates but the seventh."""
        words = asked[number]
        news = [v for v in range(words.get("since", version) + 1, version + 1) if v != 7]
        answer = {"kind": "state", "range": number, "version": version, "news": news}
        return worker.servers[number], answer | {"asked": words["asked"]}, ()

    told = 2
    for clock, answers in (
        (5, [(0, 3), (1, 4), (0, 4)]),
        (8, [(1, 7), (0, 7)]),
        (9, [(1, 8), (0, 8)]),
    ):
        pull = worker.pull(clock, told)
        pull.send(None)
        with pytest.raises(StopIteration):
            for answer in answers:
                pull.send(state(*answer))
        told = worker.told
        assert told == answers[-1][1]
    assert worker.news == [3, 4, 5, 6, 8]
