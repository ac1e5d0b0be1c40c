"""Who computes which micro-batches, who owns which slices, which layers make a stage."""

from math import fsum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.errors import UserError
from hpcpar.nn import Parameter
from hpcpar.optim import NORM_BLOCK, exact_parts, norm_of, square_sums
from hpcpar.parallel import ParallelConfig
from hpcpar.parallel.buckets import layer_buckets
from hpcpar.parallel.leaves import deal_slots, leaf_runs
from hpcpar.parallel.stages import cut_stages

COUNTS = st.integers(1, 40)


@given(COUNTS, COUNTS, st.integers(1, 9), st.booleans())
def test_every_micro_batch_once_and_in_order(micros, leaves, ranks, rounds):
    runs = leaf_runs(micros, leaves)
    slots = deal_slots(runs, ranks, rounds)
    assert len({len(own) for own in slots}) == 1, "all go through equally many"
    done = sorted(slot.micro for own in slots for slot in own if slot.micro >= 0)
    assert done == list(range(micros))
    for rank, own in enumerate(slots):
        work = [slot for slot in own if slot.micro >= 0]
        assert [slot.micro for slot in work] == sorted(slot.micro for slot in work)
        for slot in work:
            run = runs[slot.leaf]
            assert slot.micro in run
            assert (slot.first, slot.last) == (slot.micro == run[0], slot.micro == run[-1])
            if rounds:
                assert slot.leaf % ranks == rank
    ends = [[i for i, slot in enumerate(own) if slot.ends] for own in slots]
    assert all(places == ends[0] for places in ends), "sums begin at the same time on all"
    assert ends[0][-1] == len(slots[0]) - 1
    assert len(ends[0]) == (-(-len(runs) // ranks) if rounds else 1)


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_slices_share_a_bucket(sizes, ranks, data):
    parameters = [Parameter(f"p{i}", (size,)) for i, size in enumerate(sizes)]
    apart = {data.draw(st.sampled_from([p.name for p in parameters]))}
    buckets = layer_buckets(parameters, apart, ranks)
    assert [p for bucket in buckets for p in bucket.parameters] == parameters
    for bucket in buckets:
        names = {p.name for p in bucket.parameters}
        assert not names & apart or len(names) == 1
        stops = [0, *(run.stop for run in bucket.slices)]
        assert [run.start for run in bucket.slices] == stops[:-1] and stops[-1] == bucket.size
        even = bucket.size / ranks
        assert all(abs(len(run) - even) <= NORM_BLOCK for run in bucket.slices)
        pieces = [piece for run in bucket.slices for piece in bucket.pieces(run)]
        assert sum(piece.size for piece in pieces) == bucket.size
        for piece in pieces:
            whole = piece.parameter.size
            assert piece.run.start % NORM_BLOCK == 0
            assert piece.run.stop % NORM_BLOCK == 0 or piece.run.stop == whole


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.data())
def test_stages_are_as_even_as_can_be(costs, data):
    stages = data.draw(st.integers(1, min(4, len(costs))))
    speeds = data.draw(st.none() | st.lists(st.floats(0.25, 4), min_size=stages, max_size=stages))
    runs = cut_stages(costs, stages, speeds)
    assert [i for run in runs for i in run] == list(range(len(costs)))
    assert all(runs) and len(runs) == stages

    def slowest(cut):
        return max(
            fsum(costs[i] for i in run) / speed
            for run, speed in zip(cut, speeds or [1] * stages, strict=True)
        )

    def cuts(start, left):
        if left == 1:
            yield [range(start, len(costs))]
            return
        for stop in range(start + 1, len(costs) - left + 2):
            for rest in cuts(stop, left - 1):
                yield [range(start, stop), *rest]

    assert slowest(runs) <= min(map(slowest, cuts(0, stages))) * (1 + 1e-9)


def test_stages_that_cannot_be():
    with pytest.raises(ValueError, match="3 stages: there are 2 layers"):
        cut_stages([1, 1], 3)
    with pytest.raises(ValueError, match="one above 0 for each of 2 stages"):
        cut_stages([1, 1], 2, [1, 0])


@given(st.lists(st.floats(0, 1e30), max_size=50), st.integers(1, 5), st.randoms())
def test_a_few_numbers_stand_for_many(squares, ranks, random):
    """However they are dealt, the norm is the same number."""
    expected = norm_of(squares)
    random.shuffle(squares)
    dealt = [exact_parts(squares[rank::ranks]) for rank in range(ranks)]
    assert norm_of([part for parts in dealt for part in parts]) == expected
    assert all(len(parts) <= 8 for parts in dealt)


def test_a_norm_in_pieces():
    gradient = np.random.default_rng(0).standard_normal(3 * NORM_BLOCK + 17).astype("f4")
    whole = square_sums(gradient)
    pieces = square_sums(gradient[: 2 * NORM_BLOCK]) + square_sums(gradient[2 * NORM_BLOCK :])
    assert pieces == whole
    assert np.isnan(norm_of(exact_parts([1.0, np.nan])))
    assert norm_of(exact_parts([1.0, np.inf])) == np.inf


@pytest.mark.parametrize(
    ("given_", "ranks", "words"),
    [
        (
            {"pipeline": 3},
            8,
            "pipeline 3 does not make the 8 ranks that there are: take 6 ranks",
        ),
        ({"pipeline": 9}, 8, "take at least 9 ranks"),
        ({"data": 3, "pipeline": 2}, 8, "take 6 ranks, or --parallel.data -1"),
        ({"data": 0}, 8, "--parallel.data is 0"),
    ],
)
def test_axes_that_do_not_fit(given_, ranks, words):
    with pytest.raises(UserError, match=words):
        ParallelConfig(**given_).sizes(ranks)
    fitting = ParallelConfig(pipeline=2, tensor=2)
    assert fitting.sizes(8) == {"data": 2, "pipeline": 2, "context": 1, "tensor": 2}
