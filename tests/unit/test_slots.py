"""Two states in one memory: one is whole whenever the writing is broken off."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.parallel.parts import Part
from hpcpar.recovery.slots import HEAD, Slots

KINDS = ("weights", "momentum")


class Killed(Exception):
    """In the middle of writing."""


def killed():
    raise Killed


@st.composite
def parts(draw):
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), max_size=4))
    found = []
    for number, shape in enumerate(shapes):
        start = draw(st.integers(0, prod(shape)))
        found.append(Part(f"w{number}", tuple(shape), None, range(start, prod(shape))))
    return found


def state(parts, step):
    return [[np.full(len(part.run), step + i / 2, np.float32) for i in (0, 1)] for part in parts]


def empty(parts):
    return np.zeros(Slots.bytes(parts, KINDS), np.uint8)


@given(parts(), st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_last_states_that_were_written_whole(parts, ends):
    memory, written = empty(parts), []
    slots = Slots(memory, (parts, KINDS))
    for step, whole in enumerate(ends):
        if whole:
            slots.write(step, f"text {step}", state(parts, step))
            written.append(step)
        else:
            with pytest.raises(Killed):
                slots.write(step, "", (arrays if i else killed() for i, arrays in
                                       enumerate([*state(parts, step), []])))  # fmt: skip
    found = {step: (text, values) for step, text, values in Slots(memory).read()}
    newest = written[-2:] if ends[-2:] == [True, True] else written[-1:]
    assert set(newest) <= found.keys() <= set(written), "at least the last one that was whole"
    for step, (text, values) in found.items():
        assert text == f"text {step}" and [part for part, _ in values] == parts
        for (_, there), expected in zip(values, state(parts, step), strict=True):
            assert list(there) == list(KINDS)
            assert all(np.array_equal(a, b) for a, b in zip(there.values(), expected, strict=True))


@given(parts(), st.data())
def test_memory_that_is_none_of_a_ranks_is_refused(parts, data):
    memory = empty(parts)
    Slots(memory, (parts, KINDS)).write(7, "{}", state(parts, 7))
    for _ in range(data.draw(st.integers(1, 4))):
        memory[data.draw(st.integers(0, len(memory) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        memory = memory[: data.draw(st.integers(0, len(memory)))]
    try:
        found = list(Slots(memory).read())
    except ValueError:
        return
    assert len(found) <= 2 and all(len(values) == len(found[0][2]) for _, _, values in found)


def test_a_text_that_is_too_long_is_refused():
    slots = Slots(empty([]), ([], KINDS))
    with pytest.raises(ValueError, match="bytes of text"):
        slots.write(1, "x" * 100_000, [])
    with pytest.raises(ValueError, match="too few"):
        Slots(np.zeros(HEAD - 1, np.uint8))
