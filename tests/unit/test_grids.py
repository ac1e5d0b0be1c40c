"""The grids of a product: who multiplies what, what moves, and how far that is from the least."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.cost import choose, price
from hpcpar.linalg.grids import Plan, candidates, family
from hpcpar.linalg.layout import length
from hpcpar.linalg.machine import Machine
from hpcpar.linalg.problem import Places, Problem

SIZES = st.integers(0, 30)
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
TILES = st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@given(SIZES, SIZES, SIZES, GRIDS, TILES)
def test_every_product_is_computed_once(m, n, k, grid, tiles):
    plan = Plan((m, n, k), grid, tiles)
    done = np.zeros((m, n, k), int)
    for rank in range(plan.ranks + 1):
        rows, columns, depth = plan.work(rank)
        done[rows.start : rows.stop, columns.start : columns.stop, depth.start : depth.stop] += 1
    assert (done == 1).all()


@given(SIZES, SIZES, SIZES, GRIDS, TILES)
def test_operands_and_result_lie_there_once(m, n, k, grid, tiles):
    plan = Plan((m, n, k), grid, tiles)
    for layout, shape in ((plan.a, (m, k)), (plan.b, (k, n)), (plan.c, (m, n))):
        held = [layout.runs(shape, rank) for rank in range(plan.ranks)]
        assert sum(length(rows) * length(columns) for rows, columns in held) == prod(shape)


@given(SIZES, SIZES, SIZES, GRIDS)
def test_received_is_what_is_missing(m, n, k, grid):
    """Counted again, element by element."""
    plan = Plan((m, n, k), grid)
    for rank in range(plan.ranks):
        rows, columns, depth = (set(part) for part in plan.work(rank))
        if not rows or not columns:
            assert plan.received(rank) == (0, 0, 0)
            continue
        own_a = {i for run in plan.a.runs((m, k), rank)[1] for i in run}
        own_b = {i for run in plan.b.runs((k, n), rank)[0] for i in run}
        share = [i for run in plan.c.runs((m, n), rank)[0] for i in run]
        layers = [other for other in plan.layer(rank) if plan.work(other)[2] and other != rank]
        assert plan.received(rank) == (
            len(rows) * len(depth - own_a),
            len(depth - own_b) * len(columns),
            len(layers) * len(share) * len(columns),
        )
    assert plan.words == max(sum(plan.received(rank)) for rank in range(plan.ranks))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([(2, 8, 8), (9, 7, 9), (5, 13, 1), (1, 11, 7), (3, 5, 17), (66, 1, 2)]),
    st.none() | st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)),
)
def test_words_of_many_ranks_are_those_of_the_rank_that_gets_most(m, n, k, grid, tiles):
    """Few of them are looked at, and it is among those."""
    plan = Plan((m, n, k), grid, tiles)
    assert plan.words == max(sum(plan.received(rank)) for rank in range(plan.ranks))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), GRIDS)
def test_no_grid_is_below_the_bound(a, b, c, grid):
    """With extents that every grid cuts evenly."""
    m, n, k = a * 12, b * 12, c * 12
    plan = Plan((m, n, k), grid)
    assert plan.words >= lower_bound(m, n, k, plan.ranks) * (1 - 1e-12) - 1e-9


CUBE, FLAT = (4096, 4096, 4096), (8192, 8192, 256)
LONG, TALL = (512, 512, 65536), (65536, 512, 512)


@pytest.mark.parametrize("ranks", [2, 4, 6, 8, 12, 16])
def test_the_best_grids_are_near_the_bound(ranks):
    flat = 1.21 if ranks == 2 else 1.10
    for shape, most in ((CUBE, 1.34), (TALL, 1.10), (LONG, 1.10), (FLAT, flat)):
        least = min(Plan(shape, grid).words for grid in candidates(shape, ranks, "3d"))
        assert least / lower_bound(*shape, ranks) <= most


@pytest.mark.parametrize("ranks", [2, 4, 6, 8, 12, 16])
def test_the_chosen_grids_are_near_the_bound_too(ranks):
    machine = Machine(flops=1e11, copy=1e-10, latency=2e-6, bandwidth=1e10, shared=False)
    flat = 1.21 if ranks == 2 else 1.10
    for shape, most in ((CUBE, 1.34), (TALL, 1.10), (LONG, 1.10), (FLAT, flat)):
        problem = Problem(shape, ranks, 4, 4)
        plans = [Plan(shape, grid) for grid in candidates(shape, ranks)]
        best = choose([price(problem, plan, machine) for plan in plans], None)
        assert best.words / lower_bound(*shape, ranks) <= most and best.plan.ranks == ranks


PLACES = st.builds(
    Places,
    edges=st.lists(st.integers(0, 300), max_size=5).map(lambda edges: tuple(sorted(set(edges)))),
    apart=st.tuples(st.booleans(), st.booleans()),
    blocks=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    strided=st.booleans(),
    out=st.none() | st.integers(0, 5000),
    added=st.booleans(),
    aligned=st.booleans(),
    sent=st.booleans(),
    groups=st.integers(0, 3),
    scattered=st.booleans(),
)


@settings(max_examples=150)
@given(
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)),
    GRIDS,
    TILES,
    st.integers(0, 1 << 20),
    PLACES,
    st.sampled_from([(2, 4), (4, 4), (8, 8), (16, 16)]),
    st.booleans(),
)
def test_memory_is_kept_or_the_grid_is_left_out(shape, grid, tiles, memory, places, sizes, shared):
    """What is said to be needed is the least that does."""
    machine = Machine(flops=1e11, copy=1e-10, latency=2e-6, bandwidth=1e10, shared=shared)
    plan = Plan(shape, grid, tiles)

    def priced(limit):
        problem = Problem(shape, prod(grid), *sizes, sizes[0] > 4, tiles, limit)
        return price(problem, plan, machine, places=places)

    cost, most = priced(memory), priced(None)
    assert 1 <= cost.panel <= max(1, shape[2], *(tiles or ()))
    if cost.extra <= memory:
        assert choose([cost], memory) is cost and cost.extra <= most.extra
        return
    with pytest.raises(ValueError, match=f"are too few; {cost.extra:,} are needed"):
        choose([cost], memory)
    assert priced(cost.extra).extra == cost.extra
    assert priced(cost.extra - 1).extra == cost.extra


def test_candidates():
    assert set(candidates(CUBE, 4, "data")) == {(4, 1, 1)}
    assert set(candidates(CUBE, 4, "model")) == {(1, 4, 1), (1, 1, 4)}
    assert (2, 2, 1) in candidates(CUBE, 4, "summa") and (1, 2, 2) in candidates(CUBE, 4, "summa")
    assert (2, 2, 2) not in candidates(CUBE, 8, "summa") and (2, 2, 2) in candidates(CUBE, 8, "3d")
    everything = list(candidates(CUBE, 6))
    assert len(everything) == len(set(everything)) and (1, 1, 1) in everything
    assert all(prod(grid) <= 6 for grid in everything)
    assert all(prod(grid) > 1900 for grid in candidates(CUBE, 2048))
    assert family((3, 1, 1))[0] == "data" and family((1, 1, 3))[0] == "model"


def test_the_bound():
    """Its three cases, at points that are easy to work out by hand, and with little memory."""
    assert lower_bound(8, 2, 2, 4) == 4 * (1 - 1 / 4)
    assert lower_bound(16, 16, 4, 4) == pytest.approx(2 * 32 + 64 - 96)
    assert lower_bound(8, 8, 8, 8) == pytest.approx(3 * 16 - 24)
    assert lower_bound(8, 8, 8, 1) == lower_bound(0, 8, 8, 4) == 0
    assert lower_bound(64, 64, 64, 8, memory=256) == 2 * 64**3 / (8 * 16) + 256 - 3 * 64**2 / 8
