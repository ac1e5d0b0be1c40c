"""The pictures of docs/parallel.md come from what the code does, and show what the page says."""

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


def test_tensor_parallel_pictures(tmp_path):
    import tensor_axis
    from noted import Start

    tensor_axis.draw_tensor_axis(tmp_path)
    for name in ("tensor_held", "tensor_step"):
        assert "c_fc" in (tmp_path / f"{name}.svg").read_text()
    starts = [entry for entry in tensor_axis._step(False) if isinstance(entry, Start)]
    assert [entry.kind for entry in starts] == ["tensor_sum"] * 4  # two forward, two backward


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
