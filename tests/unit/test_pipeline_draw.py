"""Pictures of pipelines: a row a rank, numbered boxes, a legend; the same file again."""

import re

import pytest

from hpcpar.schedule import (
    PIPELINES,
    Backward,
    Forward,
    SendActivation,
    draw_pipeline,
    pipeline_schedule,
    price_pipeline,
)

pytest.importorskip("matplotlib")


def schedules_of(name, ranks, micros):
    return [pipeline_schedule(name, rank, ranks, micros) for rank in range(ranks)]


def numbers(text):
    """How often the number of each micro-batch stands in a box; ticks are of another size."""
    found = re.findall(r'<text style="font-size: 7.5px[^>]*>(\d+)</text>', text)
    return {number: found.count(number) for number in set(found)}


@pytest.mark.parametrize("name", PIPELINES)
def test_rows_boxes_and_words(tmp_path, name):
    path = tmp_path / "picture.svg"
    draw_pipeline(schedules_of(name, 3, 4), path, title="three ranks")
    text = path.read_text()
    halves = ["input gradient", "weight gradient"] if name == "zero-bubble" else ["backward"]
    chunks = ["chunk 0", "chunk 1"] if name == "interleaved" else []
    for word in ["rank 0", "rank 1", "rank 2", "three ranks", "forward", *halves, *chunks]:
        assert word in text
    assert ("weight gradient" in text) == (name == "zero-bubble")
    each = {"zero-bubble": 9, "interleaved": 12}.get(name, 6)
    assert numbers(text) == {str(micro): each for micro in range(4)}
    draw_pipeline(schedules_of(name, 3, 4), path, title="three ranks")
    assert path.read_text() == text


def test_a_measured_timeline_is_drawn_as_it_is(tmp_path):
    measured = [
        (0, Forward(0, 0), 0.0, 1e-3),
        (0, SendActivation(0, 0, 1), 1e-3, 2e-3),
        (1, Forward(0, 1), 2e-3, 5e-3),
    ]
    draw_pipeline(schedules_of("1f1b", 2, 1), tmp_path / "a.svg", measured)
    text = (tmp_path / "a.svg").read_text()
    assert "time [ms]" in text and "backward" not in text and numbers(text) == {"0": 2}


def test_numbers_that_do_not_fit_are_left_out(tmp_path):
    """Forwards of a hundredth of the backwards are too narrow."""
    schedules = schedules_of("gpipe", 2, 11)
    timeline = price_pipeline(schedules, 0.01, 1).timeline
    draw_pipeline(schedules, tmp_path / "a.svg", timeline)
    assert numbers((tmp_path / "a.svg").read_text()) == {str(micro): 2 for micro in range(11)}
    assert all(
        isinstance(action, Backward) for _, action, start, end in timeline if end - start > 0.5
    )


def test_png_and_nothing_to_do(tmp_path):
    draw_pipeline([[], []], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes()[:4] == b"\x89PNG"
