"""Spikes and stragglers, as far as they are pure."""

import json
from math import inf, nan
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.recovery.spikes import FEWEST, MOST_IN_VAIN, MOST_SKIPPED, WINDOW, History, why_spike
from hpcpar.recovery.stragglers import BEGINS, ENDS, Work, stragglers

NORMS = st.lists(st.floats(1e-3, 1e3), max_size=WINDOW)


@st.composite
def runs(draw):
    """Rows of a run: good steps, skipped ones, rollbacks to an earlier step."""
    rows = []
    for step in range(1, draw(st.integers(1, 60)) + 1):
        row = {"step": step, "gradient_norm": draw(st.floats(0, 1e6))}
        kind = draw(st.sampled_from(["good", "good", "good", "skipped", "back"]))
        if kind != "good":
            row |= {"skipped": True, "gradient_norm": draw(st.sampled_from([nan, inf, 7.0]))}
        if kind == "back":
            row["rolled_back_to"] = draw(st.integers(0, step - 1))
        rows.append(row)
    return rows


@pytest.mark.parametrize(("loss", "norm"), [(nan, 1.0), (1.0, nan), (inf, 1.0), (1.0, inf)])
@given(norms=NORMS)
def test_what_is_not_finite_is_a_spike_always(norms, loss, norm):
    for factor in (0.0, 2.0):
        assert str(norm) in why_spike(norms, loss, norm, factor)


@given(NORMS, st.floats(0, 1e5), st.floats(1, 100))
def test_a_spike_is_above_the_median_of_enough_steps(norms, norm, factor):
    expected = len(norms) >= FEWEST and norm > factor * median(norms)
    assert bool(why_spike(norms, 1.0, norm, factor)) == expected
    assert not why_spike(norms, 1.0, norm, 0.0)


@given(runs(), st.data())
def test_a_history_is_the_same_wherever_it_comes_from(rows, data):
    """From all rows at once; row after row, by way of JSON, and with a step done twice."""
    cut = data.draw(st.integers(0, len(rows)))
    file = [json.loads(json.dumps(row)) for row in rows]
    step_by_step = History.of_rows(rows[: cut + 1])  # one further than the others
    step_by_step = History.from_json(step_by_step.until(cut).to_json())
    for row in rows[cut:]:
        step_by_step.add(row)
    whole = History.of_rows(file)
    assert step_by_step.norms == whole.norms and step_by_step.last == whole.last
    applied = [row["gradient_norm"] for row in rows if "skipped" not in row]
    assert whole.norms == applied[-WINDOW:]
    kinds = [row.get("skipped", False) and "rolled_back_to" not in row for row in reversed(rows)]
    in_a_row = min([*kinds, False].index(False), MOST_SKIPPED + 1)
    assert step_by_step.skipped_in_a_row == whole.skipped_in_a_row == in_a_row
    for target in range(len(rows) + 1):
        found = [min(history.in_vain(target), MOST_IN_VAIN) for history in (step_by_step, whole)]
        assert found[0] == found[1]


def test_rollbacks_in_vain_are_those_since_a_new_checkpoint():
    def after(*rollbacks):
        return History.of_rows({"step": s, "rolled_back_to": t} for s, t in rollbacks)

    assert after().in_vain(0) == 0
    assert after((13, 10), (14, 10), (15, 10)).in_vain(10) == 3
    assert after((13, 10), (14, 10), (25, 20)).in_vain(20) == 1
    assert after((13, 10), (14, 10)).in_vain(20) == 0
    # With a checkpoint after every step: that of a step without an update is not new.
    assert after((13, 12), (14, 13), (15, 14)).in_vain(15) == 3


@st.composite
def teams(draw):
    """Ranks at places, equally fast, with one to four micro-batches."""
    places, peers = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    pace = [draw(st.floats(0.01, 10)) for _ in range(places)]
    return [
        Work(p, pace[p] * micros, micros)
        for p in range(places)
        for micros in draw(st.lists(st.integers(0, 4), min_size=peers, max_size=peers))
    ]


@given(teams())
def test_more_work_and_other_work_are_no_delay(ranks):
    assert stragglers(ranks) == {}


@given(st.integers(3, 9), st.floats(1.31, 50), st.data())
def test_a_slow_rank_is_found_and_how_slow(count, ratio, data):
    slow, micros = data.draw(st.integers(0, count - 1)), data.draw(st.integers(1, 4))
    ranks = [Work(0, micros * (ratio if r == slow else 1.0), micros) for r in range(count)]
    assert stragglers(ranks) == {slow: pytest.approx(ratio)}
    assert stragglers(ranks[:2]) == {}


def test_a_straggler_near_the_limit_is_one_until_it_is_clearly_none():
    def team(ratio):
        return [Work(0, 1.0, 1), Work(0, ratio, 1), Work(0, 1.0, 1)]

    between = (BEGINS + ENDS) / 2
    assert not stragglers(team(between)) and stragglers(team(between), before={1})
    assert not stragglers(team(ENDS - 0.01), before={1})
