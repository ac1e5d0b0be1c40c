"""The painter: pictures have rows, a legend, arrows where there are few, and are the same again."""

import pytest

from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.draw import ARROWS, draw

pytest.importorskip("matplotlib")


def steps_of(algorithm, size, nodes=None, segment=1000):
    return [
        schedules.allreduce(rank, size, 10_000, algorithm, segment=segment, nodes=nodes)
        for rank in range(size)
    ]


@pytest.mark.parametrize("algorithm", ["ring", "direct", "halving", "hierarchical"])
def test_every_rank_has_its_row(tmp_path, algorithm):
    nodes = (0, 0, 1, 1, 1)
    path = tmp_path / "picture.svg"
    draw(steps_of(algorithm, 5, nodes, 10_000), path, title="five ranks", nodes=nodes)
    text = path.read_text()
    for word in [*(f"rank {rank}" for rank in range(5)), "five ranks", "send", "receive",
                 "combine", "time ["]:  # fmt: skip
        assert word in text
    draw(steps_of(algorithm, 5, nodes, 10_000), path, title="five ranks", nodes=nodes)
    assert path.read_text() == text


def test_png_by_the_ending(tmp_path):
    draw(steps_of("ring", 3), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_a_measured_timeline_is_drawn_as_it_is(tmp_path):
    measured = [(0, 1, "send", 0.0, 2.0), (1, 0, "recv", 0.5, 2.0), (1, 2, "meet", 2.0, 40.0)]
    draw(steps_of("ring", 2), tmp_path / "a.svg", measured)
    text = (tmp_path / "a.svg").read_text()
    assert "time [s]" in text and "wait for all" in text and "combine" not in text


def test_too_many_arrows_are_left_out(tmp_path):
    few, many = tmp_path / "few.svg", tmp_path / "many.svg"
    draw(steps_of("ring", 4, segment=10_000), few)
    draw(steps_of("ring", 4, segment=100), many)
    assert ARROWS >= 6 * 4  # transfers of the first
    assert "#30343a" in few.read_text() and "#30343a" not in many.read_text()


def test_nothing_to_do_is_a_picture_too(tmp_path):
    draw([[], []], tmp_path / "empty.svg")
    assert "rank 1" in (tmp_path / "empty.svg").read_text()
