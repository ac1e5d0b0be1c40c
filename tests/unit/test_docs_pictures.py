"""The pictures of the pages of docs come from what the code does, and show what the page says."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(autouse=True)
def among_pictures(monkeypatch):
    monkeypatch.syspath_prepend(PICTURES)


def test_data_parallel_pictures(tmp_path):
    import data_axis
    from noted import Compute, Start

    data_axis.draw_data_axis(tmp_path)
    for name in ("data_sum", "zero_held", "zero_step"):
        assert "rank" in (tmp_path / f"{name}.svg").read_text()
    sent = []
    for zero in range(4):
        _, log = data_axis._step(zero)
        starts = [entry for entry in log if isinstance(entry, Start)]
        whole = sum({entry.size for entry in starts})
        sent.append(sum(entry.sent for entry in starts) / whole)
        forwards = [e.what for e in log if isinstance(e, Compute) and e.kind == "forward"]
        assert forwards == ["0", "1", "2", "3"] * 2  # two micro-batches
    # The page's table, times (P - 1) / P of 2 ranks, for two rounds and two micro-batches.
    assert sent == pytest.approx([2 / 2, 2 / 2, 3 / 2, 6 / 2], rel=0.02)


def test_pipeline_pictures(tmp_path):
    import pipeline_axis

    pipeline_axis.draw_pipeline_axis(tmp_path)
    for name in ("pipeline_held", "pipeline_step"):
        assert "rank 2" in (tmp_path / f"{name}.svg").read_text()
    held = [pipeline_axis.held_layers(own) for own in pipeline_axis.LAYOUTS.values()]
    assert held == [[[0, 1, 2], [3, 4], [5, 6, 7]], [[0, 1, 4], [2, 5], [3, 6, 7]]]
    sent = [[kind for _, _, kind, _ in beneath] for _, beneath in pipeline_axis.step_bars()]
    ends, middle = [[kind] * 4 for kind in ("activation", "gradient")], sorted(sent[1])
    assert [sent[0], sent[2], middle] == [*ends, ends[0] + ends[1]]


def test_tensor_parallel_pictures(tmp_path):
    import tensor_axis
    from noted import Start

    tensor_axis.draw_tensor_axis(tmp_path)
    for name in ("tensor_held", "tensor_step"):
        assert "c_fc" in (tmp_path / f"{name}.svg").read_text()
    starts = [entry for entry in tensor_axis._step(False) if isinstance(entry, Start)]
    assert [entry.kind for entry in starts] == ["tensor_sum"] * 4  # two forward, two backward


def test_skew_picture(tmp_path):
    import skew_data

    skew_data.draw_skew(tmp_path)
    assert "cost, over the mean" in (tmp_path / "skew_documents.svg").read_text()
    found = skew_data.uneven_documents()
    assert found.after <= 1.02 and found.before > 1.5


def test_context_parallel_picture(tmp_path):
    import context_axis

    context_axis.draw_context_axis(tmp_path)
    assert "step 3" in (tmp_path / "context_ring.svg").read_text()
    found = []
    for rank in range(context_axis.SIZE):
        spans, visits = context_axis._visits(rank)
        pairs = [pair for owner, _ in visits for pair in context_axis._pairs(spans, owner)]
        assert len(pairs) == 9  # the same on every rank
        found += pairs
    assert sorted(found) == [(row, column) for row in range(8) for column in range(row + 1)]


def test_pictures_of_partitions(tmp_path):
    import partitions

    partitions.draw_partitions(tmp_path)
    for name in ("sample", "batch", "feature"):
        assert f"by {name}" in (tmp_path / f"partition_{name}.svg").read_text()
    for name, each in ("sample", 3), ("batch", 12):
        for _, (rows, _), axis, runs in partitions._steps(name):
            assert (rows, axis) == (4 * each, 0)
            assert [row for own in runs for run in own for row in run] == list(range(rows))
            assert [len(own) for own in runs] == [each] * 4
    held = [(name, axis) for name, _, axis, _ in partitions._columns()]
    assert held == [
        ("samples", 1), ("layers.0.weight", 0), ("hidden units", None), ("layers.1.weight", 1),
        ("hidden units", 1), ("layers.2.weight", 0), ("outputs", None),
    ]  # fmt: skip
