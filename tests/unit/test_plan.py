"""Plans: every layout, what it needs and how long it takes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcpar.errors import UserError
from hpcpar.nn import gpt, mlp
from hpcpar.optim import OptimConfig
from hpcpar.parallel import BatchConfig, ParallelConfig
from hpcpar.parallel.choose import fastest
from hpcpar.parallel.costs import LayerSeconds
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.layout import Layout, step_actions
from hpcpar.parallel.plan import describe, layouts, plan_layout, plan_layouts
from hpcpar.parallel.shares import sharings
from hpcpar.schedule import PIPELINES, price_pipeline

MODEL = gpt(layers=6, heads=2, width=16, context=8, vocabulary=31)  # of 8 layers
LAYER = LayerSeconds(1.0, 2.0, 1.0)
FREE = Figures((LAYER,) * 8, 0.0, float("inf"), 0.0, 0.0, overlap=True, origin={})
BATCH, OPTIM = BatchConfig(size=32, micro=2, leaves=16), OptimConfig()


def plan(figures=FREE, ranks=1, batch=BATCH, model=MODEL, reproducible="ranks", **keys):
    layout = Layout(ParallelConfig(**keys), batch, ranks, reproducible)
    return plan_layout(model, layout, OPTIM, figures)


@given(st.integers(1, 96), st.integers(1, 12))
def test_layouts_fit_and_come_once(ranks, layers):
    found = list(layouts(ranks, layers, {}))
    assert len({describe(one) for one in found}) == len(found) > 0
    for one in found:
        assert one.sizes(ranks)["data"] == one.data
        assert one.pipeline * one.stages_a_rank <= layers


@given(st.integers(1, 64), st.data())
def test_given_keys_are_kept(ranks, data):
    every = list(layouts(ranks, 8, {}))
    one = data.draw(st.sampled_from(every))
    names = data.draw(st.sets(st.sampled_from(["pipeline", "schedule", "chunks", "zero", "data"])))
    keys = {name: getattr(one, name) for name in names}
    found = list(layouts(ranks, 8, keys))
    assert one in found
    assert set(map(describe, found)) <= set(map(describe, every))
    for name in names & {"pipeline", "data"}:
        assert {getattr(other, name) for other in found} == {keys[name]}
    if "zero" in names and one.data > 1:
        assert {other.zero for other in found if other.data > 1} == {one.zero}


def test_other_chunks_and_what_makes_no_layout():
    found = list(layouts(2, 12, {"pipeline": 2, "schedule": "interleaved", "chunks": 6}))
    assert {one.chunks for one in found} == {6}
    assert not list(layouts(7, 3, {"pipeline": 7}))


def test_one_rank_computes_and_updates():
    found = plan(replace(FREE, update=1e-3))
    weights = sum(p.size for p in MODEL.parameters if p.tied_to is None)
    assert found.seconds.compute == pytest.approx(16 * 8 * 3 + weights * 1e-3)
    assert found.seconds.communication == found.seconds.bubble == 0
    assert found.samples_per_second == pytest.approx(32 / found.seconds.total)


def test_recomputation_is_a_forward_more_in_all_inner_layers():
    assert plan(recompute=True).seconds.compute == pytest.approx(16 * (8 * 3 + 6))


@pytest.mark.parametrize(
    ("schedule", "bubble"),
    [("gpipe", 3 * 6.0), ("1f1b", 3 * 6.0), ("interleaved", 3 * 3.0), ("zero-bubble", 0.0)],
)
def test_the_bubble_is_the_schedules(schedule, bubble):
    """docs/pipelines.md: (p - 1) (F + B), F = 2 and B = 4; of zero-bubble I and W are 2."""
    found = plan(ranks=4, pipeline=4, schedule=schedule).seconds
    assert found.compute == pytest.approx(16 * 6)
    assert found.bubble == pytest.approx(bubble if schedule != "zero-bubble" else 3 * 4 - 3 * 2)


@pytest.mark.parametrize("schedule", PIPELINES)
@pytest.mark.parametrize(("ranks", "micros"), [(2, 47), (4, 64)])
def test_a_long_step_goes_on_evenly(schedule, ranks, micros):
    """It is not priced micro-batch by micro-batch, but takes what it would take so."""
    batch, keys = BatchConfig(micros, 1, 8), {"pipeline": ranks, "schedule": schedule}
    found = plan(replace(FREE, latency=0.1), ranks, batch, **keys)
    parallel = ParallelConfig(**keys)
    steps = [step_actions(parallel, rank, micros) for rank in range(ranks)]
    runs = [len(run) for run in found.stages]
    price = price_pipeline(
        steps, [1.0 * n for n in runs], [2.0 * n for n in runs], [1.0 * n for n in runs], 0.1
    )
    assert found.seconds.compute + found.seconds.bubble == pytest.approx(price.seconds, rel=0.01)


def test_the_last_layers_sum_cannot_be_hidden():
    """Sums are hidden behind the backwards that are left, but for the first layer's."""
    slow = replace(FREE, bandwidth=1e3)
    whole, hidden = plan(replace(slow, overlap=False), 2, zero=0), plan(slow, 2, zero=0)
    assert 0 < hidden.seconds.communication < whole.seconds.communication
    quick = plan(replace(FREE, bandwidth=1e6), 2, zero=0).seconds.communication
    first = MODEL.layers[0].parameters
    assert quick == pytest.approx(sum(p.size for p in first) * 4 / 1e6)
    later = plan(replace(FREE, bandwidth=1e6), 2, zero=1).seconds.communication
    assert later > quick, "weights are shared out after the update"


def test_parameters_travel_for_every_micro_batch():
    slow = replace(FREE, bandwidth=1e6, overlap=False)
    totals = [plan(slow, 4, zero=zero).seconds.communication for zero in range(4)]
    assert totals[3] == max(totals)


def test_work_goes_where_the_speed_is():
    even = plan(FREE, 2, zero=0)
    assert even.seconds.compute == pytest.approx(8 * 24)
    fair = plan(FREE, 2, zero=0, speeds=(3.0, 1.0))
    assert fair.seconds.compute == pytest.approx(4 * 24), "12 and 4 micro-batches"
    rounds = plan(FREE, 2, zero=2, speeds=(3.0, 1.0))
    assert rounds.seconds.compute == pytest.approx(8 * 24), "8 each"
    staged = plan(FREE, 2, pipeline=2, speeds=(3.0, 1.0))
    assert [len(run) for run in staged.stages] == [6, 2]


def test_ranks_without_a_leaf_are_told():
    layout = Layout(ParallelConfig(pipeline=2), BatchConfig(8, 2, 3), 10)
    assert layout.idle_ranks == 4


def test_what_saves_memory_saves_memory():
    def of(ranks=4, **keys):
        return plan(FREE, ranks, **keys).bytes

    zeros = [of(zero=zero) for zero in range(4)]
    assert zeros[0].optimizer > zeros[1].optimizer == zeros[2].optimizer == zeros[3].optimizer
    assert zeros[0].parameters == zeros[1].parameters == zeros[2].parameters
    assert zeros[3].parameters < zeros[2].parameters
    assert zeros[3].buffers > 0
    assert of(recompute=True).activations < of().activations
    assert (
        of(pipeline=4, schedule="1f1b").activations < of(pipeline=4, schedule="gpipe").activations
    )


@settings(max_examples=15)
@given(st.sampled_from([1, 2, 6, 12]), st.integers(1, 8), st.integers(1, 16))
def test_plans_are_sorted_and_of_all_layouts(ranks, micros, leaves):
    plans = plan_layouts(MODEL, BatchConfig(2 * micros, 2, leaves), OPTIM, ranks, FREE)
    assert len(plans) == len(list(layouts(ranks, 8, {})))
    seconds = [one.seconds.total for one in plans]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert all(one.bytes.total > 0 for one in plans)


def test_the_fastest_that_fits():
    plans = plan_layouts(MODEL, BATCH, OPTIM, 4, FREE)
    least = min(one.bytes.total for one in plans)
    assert fastest(plans, float("inf")) is plans[0]
    assert fastest(plans, least).bytes.total == least
    with pytest.raises(UserError, match=r"no layout fits into .* missing for the nearest, data"):
        fastest(plans, least - 1)


def test_tables_have_plans_too():
    model = mlp(10, 3, 12, 3, "classification")
    figures = replace(FREE, layers=(LAYER,) * 4)
    plans = plan_layouts(model, BATCH, OPTIM, 2, figures, {"zero": 3}, host=False)
    assert {one.layout.pipeline for one in plans} == {1, 2}


@pytest.mark.parametrize(
    ("speeds", "words"),
    [((1.0,) * 3, "has 3 numbers for 2 ranks"), ((1.0, 0.0), "each must be above 0")],
)
def test_speeds_that_cannot_be(speeds, words):
    with pytest.raises(UserError, match=words):
        ParallelConfig(speeds=speeds).sizes(2)


def test_tensor_ranks_share_products():
    """All but the embedding; the first has 16 of the 31 tokens."""
    found = plan(FREE, 2, tensor=2).seconds
    assert found.compute == pytest.approx(16 * 3 * (1 + 6 / 2 + 16 / 31))
    norms = replace(FREE, combine=1e-6)
    more, shared = (plan(norms, 2, tensor=2, sequence=rows).seconds for rows in (False, True))
    assert more.compute > shared.compute, "norms are on every rank, unless rows are shared"


def test_a_block_waits_for_four_sums():
    stream, sums = 2 * 8 * 16, 6 * 4 + 2  # of blocks; embedding and head
    slow = replace(FREE, bandwidth=1e6, overlap=False)
    found = plan(slow, 2, tensor=2).seconds.communication
    loss = 2 * 2 * 16
    assert found == pytest.approx(16 * 4 * (sums * stream + loss) / 1e6)
    hidden = plan(replace(slow, overlap=True), 2, tensor=2).seconds.communication
    half = 16 * 4 * 6 * 2 * stream / 1e6
    assert hidden == pytest.approx(found - half), "two are beside gradients of weights"
    rows = plan(slow, 2, tensor=2, sequence=True).seconds.communication
    assert rows > found, "what products take is brought together again in backward"


def test_context_ranks_share_positions():
    found = plan(FREE, 2, context=2)
    assert found.seconds.compute == pytest.approx(16 * 8 * 3 / 2)
    assert found.bytes.activations < 0.6 * plan().bytes.activations
    slow = replace(FREE, bandwidth=1e6, overlap=False)
    ring = 16 * 6 * 4 * (2 + 4) * 2 * 4 * 16  # keys and values; backward once more, and back
    weights = sum(p.size for p in MODEL.parameters)
    sums = 4 * weights  # once a step: half goes, half comes
    told = plan(slow, 2, context=2).seconds.communication
    assert told == pytest.approx((ring + sums) / 1e6, rel=1e-3)
    tiled = plan(slow, 2, context=2, reproducible="layout").seconds.communication
    assert tiled == pytest.approx((ring + 16 * sums) / 1e6, rel=1e-3), "once a micro-batch"
    hidden = plan(replace(slow, overlap=True), 2, context=2).seconds.communication
    assert hidden == pytest.approx(sums / 1e6), (
        "keys and values come while others are computed with"
    )


def test_all_have_the_same_to_do_where_a_rank_has_two_spans():
    """31 positions a rank cannot be cut in two: the last span then attends to most."""
    even, odd = (gpt(layers=1, heads=2, width=16, context=n, vocabulary=31) for n in (64, 62))
    figures = replace(FREE, layers=(LAYER,) * 3)
    fair, unfair = (plan(figures, 2, model=m, context=2).seconds.compute for m in (even, odd))
    assert fair == pytest.approx(16 * 3 * 3 / 2) and unfair > 1.02 * fair


def test_shared_layers_need_less():
    whole, shared, rows = (
        plan(FREE, 2, **keys).bytes
        for keys in ({"pipeline": 1}, {"tensor": 2}, {"tensor": 2, "sequence": True})
    )
    assert shared.parameters < 0.6 * whole.parameters
    assert rows.activations < shared.activations < whole.activations


LONG = gpt(layers=2, heads=4, width=16, context=1024, vocabulary=32)
LONG_FIGURES = replace(FREE, layers=(LAYER,) * 4)


def test_ways_to_share_are_those_of_the_model():
    def ways(model, ranks, tiles=None, **given):
        return {tuple(how) for how in sharings(model, ranks, 2, tiles, given)}

    assert ways(LONG, 6, tensor=1, context=1) == {(1, False, 1)}
    assert ways(LONG, 4, context=1) == {(1, False, 1), *((n, b, 1) for n in (2, 4) for b in (0, 1))}
    assert ways(LONG, 6, context=1) == {(1, False, 1), (2, False, 1), (2, True, 1)}, "not 3 of 4"
    assert ways(LONG, 6, context=1, tensor=3, sequence=False) == {(3, False, 1)}, "but if asked for"
    assert ways(LONG, 16, tensor=1) == {(1, False, n) for n in (1, 2, 4)}
    assert ways(LONG, 16, tensor=1, context=16) == {(1, False, 16)}
    assert ways(LONG, 16, 2, tensor=1) == {(1, False, n) for n in (1, 2)}, "two spans"
    assert ways(mlp(8, 3, 8, 3, "regression"), 2) == {(1, False, 1), (2, False, 1)}
    with pytest.raises(UserError, match=r"^--parallel.tensor 8: 8 .* take at most 4 ranks"):
        ways(LONG, 8, tensor=8)
    with pytest.raises(UserError, match=r"^--parallel.context 2: only sequences"):
        ways(mlp(8, 3, 8, 3, "regression"), 2, context=2)


def test_bits_are_kept_unless_nothing_else_fits():
    def plans(reproducible="ranks", limit=float("inf"), **given):
        found = plan_layouts(LONG, BATCH, OPTIM, 4, LONG_FIGURES, given, reproducible, limit=limit)
        return found, {tuple(one.layout.sharing) for one in found}

    kept, ways = plans()
    assert ways == {(1, False, 1)}
    least = min(one.bytes.total for one in kept)
    assert plans(limit=least)[1] == ways
    more, ways = plans(limit=least - 1)
    assert (4, True, 1) in ways and (1, False, 4) in ways and (1, False, 1) in ways
    assert fastest(more, least - 1).layout.sharing != (1, False, 1)
    assert {way[0] for way in plans(tensor=2)[1]} == {2}
    for reproducible in ("layout", "off"):
        found, ways = plans(reproducible)
        assert {(1, False, 1), (2, True, 2), (4, False, 1), (1, False, 4)} <= ways
        assert len({describe(one.layout.parallel) for one in found}) == len(found)
    few = plans("layout", tiles=2)[1]
    assert max(way[0] for way in few) == max(way[2] for way in few) == 2
    assert describe(ParallelConfig(data=1, tensor=2, context=3, sequence=True)) == (
        "data 1 x pipeline 1 x context 3 x tensor 2, sequence"
    )
