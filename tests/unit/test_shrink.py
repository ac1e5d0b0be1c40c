"""What follows from a lost rank: who had its copy, who has what is left, who does what then."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.comm.flight.beats import suspects
from hpcpar.comm.flight.rows import CallRow, Row
from hpcpar.nn import Cut
from hpcpar.parallel.config import ParallelConfig
from hpcpar.parallel.parts import Part, assemble
from hpcpar.recovery.backup import partners
from hpcpar.recovery.fewer import fewer
from hpcpar.recovery.rescue import choose_parts


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
def test_every_rank_keeps_the_copy_of_another(nodes):
    keepers = partners(nodes)
    assert sorted(keepers) == list(range(len(nodes)))
    assert all(keeper != rank for rank, keeper in enumerate(keepers))
    largest = max(Counter(nodes).values())
    if 2 * largest <= len(nodes):  # no node has more than half of the ranks
        assert all(nodes[keeper] != nodes[rank] for rank, keeper in enumerate(keepers))


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 24),
    st.sampled_from(["ranks", "layout", "off"]),
)  # fmt: skip
def test_a_layout_for_fewer_ranks(pipeline, context, tensor, ranks, reproducible):
    before = ParallelConfig(pipeline=pipeline, context=context, tensor=tensor)
    found, count = fewer(before, ranks, reproducible)
    assert 1 <= count <= ranks
    sizes = found.sizes(count)  # raises where they do not fit
    assert np.prod(list(sizes.values())) == count and found.pipeline <= pipeline
    if reproducible == "ranks" and context * tensor <= ranks:
        assert (found.context, found.tensor) == (context, tensor), "or the bits would change"
        assert ranks - count < context * tensor, "no more are spare than need be"
    if reproducible != "ranks":
        assert count == ranks


def test_a_plan_is_made_anew():
    assert fewer(ParallelConfig(plan="auto"), 5, "ranks") == (ParallelConfig(plan="auto"), 5)


@st.composite
def offered(draw):
    """A whole tensor, its parts on some ranks, with copies, and whether some are left out."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    whole = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    edge = draw(st.integers(0, rows))
    cuts = [Cut((rows, columns), 0, (run,)) for run in (range(edge), range(edge, rows)) if run]
    parts = []
    for cut in cuts if draw(st.booleans()) else [None]:
        local = (whole if cut is None else cut.take(whole)).reshape(-1)
        middle = draw(st.integers(0, local.size))
        for run in (range(middle), range(middle, local.size)):
            if run:
                part = Part("w", (rows, columns), cut, run)
                parts.append((part, local[run.start : run.stop]))
    kept = draw(st.lists(st.sampled_from(range(len(parts))), min_size=1, max_size=12))
    return whole, [parts[i] for i in kept], set(kept) == set(range(len(parts)))


@given(offered())
def test_parts_are_chosen_once_and_make_up_the_tensor(offered):
    whole, parts, complete = offered
    found = choose_parts([(rank, 0, part) for rank, (part, _) in enumerate(parts)])
    assert (found is not None) == complete
    if found is not None:
        assert sum(len(part.run) for _, _, part in found) == whole.size, "nothing travels twice"
        chosen = [(part, parts[rank][1]) for rank, _, part in found]
        assert np.array_equal(assemble(whole.shape, chosen), whole)


def row(rank: int, waits: bool, state: str = "running", started: str = "") -> Row:
    call = CallRow(1, "collective", "allreduce", 1) if waits else None
    own = [CallRow(1, "collective", started, 2)] if started else []
    return Row(rank, state=state, call=call, open=own)


@pytest.mark.parametrize(
    ("rows", "blamed"),
    [
        ([row(0, True), row(1, False), row(2, True)], [1]),
        ([row(0, True), row(1, True, "stopped"), row(2, True)], [1]),
        ([row(0, True), row(1, True)], []),  # all wait: a deadlock, or the network
        ([row(0, True), row(1, False)], []),  # not most
        ([row(0, True), row(1, False, started="vote"), row(2, True)], []),  # a spare rank
        ([row(0, True), row(1, False, "dead"), row(2, True)], []),  # MPI tells that
    ],
)
def test_who_is_blamed(rows, blamed):
    assert suspects(rows) == blamed
