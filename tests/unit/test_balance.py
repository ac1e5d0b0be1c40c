"""Work moves where it helps, and stays where it is otherwise."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.parallel.balance import Work, better_speeds, rank_speeds, step_seconds
from hpcpar.parallel.config import BatchConfig, ParallelConfig
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.stages import cut_stages

SPEEDS = st.sampled_from([1.0, 0.9, 0.75, 0.5, 0.25])


def layout_of(ranks, pipeline=1, speeds=(), leaves=28, zero=1):
    parallel = ParallelConfig(pipeline=pipeline, speeds=tuple(speeds), zero=zero)
    return Layout(parallel, BatchConfig(leaves, 1, leaves), ranks)


def work_of(layout, costs):
    return Work(cut_stages(costs, layout.stages, layout.stage_speeds), costs)


def measured(layout, work, true):
    """Seconds that each rank computes, if it is so fast."""
    return [step_seconds(layout, work, [1e9] * i + [speed] + [1e9] * (layout.ranks - i - 1))
            for i, speed in enumerate(true)]  # fmt: skip


def test_leaves_move_from_a_slow_rank():
    layout, true = layout_of(4), (1.0, 1.0, 1.0, 0.5)
    work = work_of(layout, [1.0] * 3)
    speeds = better_speeds(layout, work, measured(layout, work, true))
    assert speeds == true
    after = layout_of(4, speeds=speeds)
    assert [len(run) for run in after.runs] == [8, 8, 8, 4]
    assert better_speeds(after, work, measured(after, work, true)) is None


def test_layers_move_from_a_slow_stage():
    layout, true = layout_of(2, pipeline=2), (1.0, 0.5)
    work = work_of(layout, [1.0] * 6)
    assert [len(stage) for stage in work.stages] == [3, 3]
    speeds = better_speeds(layout, work, measured(layout, work, true))
    after = layout_of(2, pipeline=2, speeds=speeds)
    assert [len(stage) for stage in work_of(after, work.costs).stages] == [4, 2]


@given(st.sampled_from([(4, 1), (4, 2), (3, 1), (6, 2), (8, 4)]), st.data())
def test_a_move_helps_and_is_not_taken_back(sizes, data):
    ranks, pipeline = sizes
    true = data.draw(st.lists(SPEEDS, min_size=ranks, max_size=ranks))
    costs = data.draw(st.lists(st.floats(0.5, 2), min_size=8, max_size=12))
    layout = layout_of(ranks, pipeline)
    work = work_of(layout, costs)
    moves = 0
    while (speeds := better_speeds(layout, work, measured(layout, work, true))) is not None:
        before, moves = max(measured(layout, work, true)), moves + 1
        layout = layout_of(ranks, pipeline, speeds)
        work = work_of(layout, costs)
        assert max(measured(layout, work, true)) < before
        assert moves <= 2, "it comes to rest"


def test_little_is_not_worth_a_move():
    layout = layout_of(4)
    work = work_of(layout, [1.0])
    assert better_speeds(layout, work, measured(layout, work, (1.0, 0.95, 1.0, 0.95))) is None


def test_leaves_that_are_dealt_in_rounds_stay():
    layout = layout_of(4, zero=3)
    work = work_of(layout, [1.0])
    assert better_speeds(layout, work, measured(layout, work, (1.0, 1.0, 1.0, 0.5))) is None


def test_a_rank_without_work_is_as_fast_as_it_was():
    layout = layout_of(3, speeds=(1.0, 0.5, 1.0), leaves=2)
    work = work_of(layout, [1.0])
    idle = [len(run) for run in layout.runs].index(0)
    found = rank_speeds(layout, work, measured(layout, work, (1.0, 1.0, 1.0)))
    assert found[idle] == pytest.approx(layout.parallel.speeds[idle])
    assert replace(layout, parallel=replace(layout.parallel, speeds=found)).runs
