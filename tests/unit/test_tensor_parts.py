"""Parts of tensors: they travel as text, and give the whole tensor back."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.nn import Cut
from hpcpar.parallel.parts import Part, assemble, covers


@st.composite
def cut_tensors(draw):
    """A whole tensor, and all parts of it as several ranks might hold them, in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    axis = draw(st.integers(0, len(shape) - 1))
    ranks = draw(st.integers(1, shape[axis]))
    edges = [round(i * shape[axis] / ranks) for i in range(ranks + 1)]
    parts = []
    for rank in range(ranks):
        cut = None if ranks == 1 else Cut(shape, axis, (range(edges[rank], edges[rank + 1]),))
        local = (whole if cut is None else cut.take(whole)).reshape(-1)
        ends = sorted({0, local.size, *draw(st.lists(st.integers(0, local.size), max_size=3))})
        for start, stop in pairwise(ends):
            parts.append((Part("w", shape, cut, range(start, stop)), local[start:stop]))
    return whole, draw(st.permutations(parts))


@given(cut_tensors())
def test_parts_give_the_whole_tensor_back(tensor):
    whole, parts = tensor
    sent = [(Part.from_json(json.loads(json.dumps(part.to_json()))), a) for part, a in parts]
    assert [part for part, _ in sent] == [part for part, _ in parts]
    assert np.array_equal(assemble(whole.shape, sent), whole)


@given(cut_tensors(), st.data())
def test_a_missing_part_is_noticed(tensor, data):
    whole, parts = tensor
    lost = data.draw(st.integers(0, len(parts) - 1))
    with pytest.raises(ValueError, match="missing"):
        assemble(whole.shape, [part for i, part in enumerate(parts) if i != lost])


@given(cut_tensors(), st.data())
def test_parts_cover_a_tensor_when_each_is_there_once(tensor, data):
    whole, parts = tensor
    mine = [part for part, _ in parts]
    assert covers(whole.shape, mine)
    i = data.draw(st.integers(0, len(mine) - 1))
    assert not covers(whole.shape, mine[:i] + mine[i + 1 :])
    assert not covers(whole.shape, [*mine, mine[i]])
    assert not covers((*whole.shape, 1), mine)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(JSON | st.tuples(st.just("w"), JSON, JSON, JSON, JSON))
def test_anything_else_is_refused_in_words(fields):
    try:
        part = Part.from_json(fields)
    except ValueError as error:
        assert "does not say a part" in str(error)
    else:
        assert 0 <= part.run.start <= part.run.stop <= part.held
