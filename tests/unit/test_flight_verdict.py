"""One sentence for each way in which ranks can keep each other waiting, and the table with it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import WORLD, Ranks, four

from hpcpar.comm.flight.rows import missing_row
from hpcpar.comm.flight.table import table
from hpcpar.comm.flight.verdict import verdict
from hpcpar.comm.flight.words import rank_names


def test_a_rank_that_receives_instead():
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].enter("recv", 1, line=150, peer=2)
    assert ranks.told() == (
        "rank 3 never entered allreduce #118 (train.py:141); it is in recv from 2 (train.py:150)"
    )


def test_a_rank_that_computes():
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].compute()
    assert ranks.told() == (
        "rank 3 never entered allreduce #118 (train.py:141); "
        "it is outside of hpcpar at data.py:33 for 12 s, after bcast #117"
    )
    ranks[3].compute("")
    assert "it is outside of hpcpar for 12 s, after" in ranks.told()


def test_a_rank_in_a_call_of_other_ranks():
    ranks = four()
    for rank in (2, 3):
        ranks[rank].join(9, [3, 2])
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].enter("barrier", 4, line=160, group=9)
    assert ranks.told() == (
        "rank 3 never entered allreduce #118 (train.py:141); "
        "it is in barrier #4 of ranks 2-3 (train.py:160)"
    )
    ranks[3].recorder.close_group(ranks[3].slots[9])
    ranks[3].enter("recv", 1, peer=0)  # it is said whom in the world it waits for
    assert ranks.told().endswith("it is in recv from 0 (train.py:141)")


def test_peers_are_told_by_their_rank_in_the_world():
    ranks = four()
    for rank in (1, 3):
        ranks[rank].join(9, [3, 1])
    ranks[3].enter("recv", 1, peer=1, group=9)
    ranks[1].compute()
    assert ranks.told() == (
        "rank 3 waits in recv from 1 (train.py:141), and "
        "rank 1 is outside of hpcpar at data.py:33 for 12 s, after bcast #117"
    )
    assert "recv from 1" in table(ranks.rows())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("dead", "it is dead (process 4711 on node0), after bcast #117"),
        ("stopped", "it is stopped by a signal, outside of hpcpar for 12 s, after bcast #117"),
        ("ended", "it is gone: its program came to its end, after bcast #117"),
    ],
)
def test_a_rank_that_is_no_more(state, words):
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].state = state
    assert ranks.told() == f"rank 3 never entered allreduce #118 (train.py:141); {words}"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("dead", "rank 2 is dead (process 4711 on node0) in allreduce #118 (train.py:141)"),
        ("stopped", "rank 2 is stopped by a signal, in allreduce #118 (train.py:141)"),
    ],
)
def test_a_rank_that_stays_inside(state, words):
    ranks = four()
    ranks.enter("allreduce", 118)
    ranks[2].state = state
    assert ranks.told() == f"{words}, and others wait there"


def test_a_rank_that_went_when_it_was_done():
    ranks = four()
    ranks.enter("allreduce", 118, but=(2,))
    ranks[2].do("allreduce", 118)
    ranks[2].state = "dead"
    assert ranks.told() == (
        "rank 2 is dead (process 4711 on node0), after allreduce #118, and others wait there"
    )


def test_a_rank_of_which_nothing_is_known():
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    rows = [*ranks.rows()[:3], missing_row(3)]
    words = "nothing is known of rank 3, and allreduce #118 (train.py:141) waits"
    assert verdict(rows) == words
    assert verdict(rows[:3]) == words  # no row is the same as an empty one


def test_other_operations_under_one_number():
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].enter("bcast", 118, line=150, peer=0)
    assert ranks.told() == (
        "ranks 0-2 are in allreduce #118 (train.py:141), rank 3 is in bcast #118 (train.py:150)"
    )


@pytest.mark.parametrize(
    ("name", "odd", "words"),
    [
        ("bcast", {"peer": 1}, "ranks 0-2 with root 0, rank 3 with root 1"),
        ("allreduce", {"size": 4000}, "ranks 0-2 with 800 B, rank 3 with 4.0 KB"),
    ],
)
def test_roots_and_sizes_that_differ(name, odd, words):
    ranks = four()
    like = {"peer": 0, "size": 800}
    ranks.enter(name, 118, but=(3,), **like)
    ranks[3].enter(name, 118, **{**like, **odd})
    assert ranks.told() == f"all 4 ranks entered {name} #118 (train.py:141), but not alike: {words}"


def test_sizes_may_differ_where_that_is_right():
    ranks = four()
    for rank, it in enumerate(ranks):
        it.enter("gather", 118, peer=0, size=rank)
    assert "none came out of it: look at the network" in ranks.told()


def test_all_are_there():
    ranks = four()
    ranks.enter("allreduce", 118)
    words = "all 4 ranks entered allreduce #118 (train.py:141), "
    blame = ": look at the network, and at the MPI library"
    assert ranks.told() == f"{words}none came out of it{blame}"
    ranks = four()
    ranks.enter("allreduce", 118, but=(0,))
    ranks[0].do("allreduce", 118)
    assert ranks.told() == f"{words}rank 0 came out of it, ranks 1-3 did not{blame}"


def test_started_and_left():
    ranks = four()
    ranks.enter("allreduce", 118, but=(1,))
    ranks[1].start("allreduce", 118)
    ranks[1].compute()
    assert ranks.told() == (
        "rank 1 started allreduce #118 (train.py:141) without waiting for it; "
        "it is outside of hpcpar at data.py:33 for 12 s, after bcast #117"
    )


def test_a_message_that_nobody_sends():
    ranks = four()
    ranks[1].enter("recv", 1, line=20, peer=3)
    ranks[3].compute()
    assert ranks.told() == (
        "rank 1 waits in recv from 3 (train.py:20), and "
        "rank 3 is outside of hpcpar at data.py:33 for 12 s, after bcast #117"
    )
    ranks[3].state = "dead"
    assert ranks.told() == (
        "rank 1 waits in recv from 3 (train.py:20), and "
        "rank 3 is dead (process 4711 on node0), after bcast #117"
    )


def test_a_chain_of_messages():
    ranks = four()
    ranks[1].enter("recv", 1, line=20, peer=3)
    ranks[3].enter("send", 1, line=30, peer=2)
    ranks[2].compute()
    key = WORLD, "message", 1
    assert verdict(ranks.rows(), (1, key)) == (
        "rank 1 waits in recv from 3 (train.py:20), and rank 3 in send to 2 (train.py:30), and "
        "rank 2 is outside of hpcpar at data.py:33 for 12 s, after bcast #117"
    )


def test_a_circle_of_messages():
    ranks = Ranks(3)
    for rank, it in enumerate(ranks):
        it.enter("recv", 1, line=20 + rank, peer=(rank + 1) % 3)
    assert verdict(ranks.rows(), (0, (WORLD, "message", 1))) == (
        "ranks 0 -> 1 -> 2 -> 0 wait for each other: rank 0 in recv from 1 (train.py:20), "
        "rank 1 in recv from 2 (train.py:21), rank 2 in recv from 0 (train.py:22)"
    )


def test_messages_that_do_not_meet():
    ranks = Ranks(2)
    ranks[0].enter("send", 1, peer=1)
    ranks[1].enter("recv", 1, peer=0)
    assert "do not meet: look at their tags" in ranks.told()
    ranks = Ranks(2)
    ranks[1].enter("recv", 1, peer=1)
    assert ranks.told() == "rank 1 in recv from 1 (train.py:141) waits for itself"


def test_a_call_that_a_rank_gave_up():
    """A rank that has raised its error already is not taken for one that never came."""
    ranks = four()
    ranks.enter("allreduce", 118, but=(1, 3))
    ranks[1].recorder.give_up(ranks[1].enter("allreduce", 118))
    ranks[3].compute()
    assert ranks.told().startswith("rank 3 never entered allreduce #118 ")
    ranks[2].enter("recv", 7, peer=1)
    told = verdict(ranks.rows(), (2, (WORLD, "message", 7)))
    assert told.endswith("rank 1 is out of allreduce #118 (train.py:141), which it gave up")


def test_a_short_call_of_others_is_not_blamed():
    """Two ranks that are busy with each other at that moment are no part of the hang."""
    ranks = four()
    ranks[0].enter("recv", 1, peer=1)
    rows = ranks.rows()
    for rank in (2, 3):
        ranks[rank].enter("allreduce", 118)
        row = ranks[rank].row()
        rows[rank] = replace(row, call=replace(row.call, seconds=0.01))
    assert verdict(rows).startswith("rank 0 waits in recv from 1")


def test_the_waits_of_a_dead_run_seem_short():
    """Its times end when the last rank was heard of, which may be when it began to wait."""
    ranks = four()
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].enter("recv", 1, peer=2)
    rows = [replace(row, call=replace(row.call, seconds=0.0)) for row in ranks.rows()]
    rows[3] = replace(rows[3], call=replace(rows[3].call, seconds=0.3))
    assert verdict(rows).startswith("rank 3 never entered allreduce #118 ")


def test_nobody_waits():
    ranks = four()
    assert ranks.told() == "no rank waits in a call"
    ranks[2].state = "dead"
    assert ranks.told() == (
        "no rank waits in a call; rank 2 is dead (process 4711 on node0), after bcast #117"
    )


def test_only_a_few_are_named():
    ranks = Ranks(24)
    for rank, it in enumerate(ranks):
        if rank % 2:
            it.do("bcast", rank, peer=0)
        else:
            it.enter("allreduce", 118)
    told = ranks.told()
    assert told.startswith("ranks 1, 3, 5, 7 and 8 more never entered allreduce #118 ")
    assert told.endswith(", and 9 more are elsewhere") and len(told) < 400


FATES = st.sampled_from(["wait", "compute", "recv", "dead", "stopped", "missing", "start", "other"])


@given(st.lists(FATES, min_size=2, max_size=9), st.randoms())
def test_whatever_ranks_do_there_is_one_sentence(fates, random):
    ranks = Ranks(len(fates))
    for rank, (it, fate) in enumerate(zip(ranks, fates, strict=True)):
        if fate in ("wait", "stopped"):
            it.enter("allreduce", 1)
        elif fate == "recv":
            it.enter("recv", 1, peer=(rank + 1) % len(fates))
        elif fate == "start":
            it.start("allreduce", 1)
        elif fate == "other":
            it.enter("bcast", 1, peer=0)
        if fate in ("dead", "stopped"):
            it.state = fate
    rows = ranks.rows()
    rows = [missing_row(r) if fate == "missing" else rows[r] for r, fate in enumerate(fates)]
    told, lines = verdict(rows), table(rows).splitlines()
    assert told and "\n" not in told and "None" not in told
    assert len(lines) == len(rows) + 1 and all(len(line) <= 114 for line in lines)
    random.shuffle(rows)
    assert table(rows).splitlines() == lines
    if "wait" in fates and "other" not in fates:
        absent = [r for r, fate in enumerate(fates) if fate in ("compute", "recv", "dead")]
        assert (f"{rank_names(absent)} never entered allreduce #1 " in told) == bool(absent)
