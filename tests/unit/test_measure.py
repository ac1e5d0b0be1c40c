"""Which pairs of ranks are measured, and how the figures are kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.comm.measure import PAIRS, Link, Links, Pair, choose_pairs

NUMBER = st.floats(1e-12, 1e12)
PAIR = st.builds(
    Pair,
    st.tuples(st.integers(0, 99), st.integers(0, 99)),
    st.sampled_from(["inside", "between"]),
    st.builds(Link, NUMBER, NUMBER),
)


@pytest.mark.parametrize(
    ("nodes", "pairs"),
    [
        ([0], []),
        ([0, 0], [(0, 1, "inside")]),
        ([0, 0, 0, 0], [(0, 1, "inside"), (0, 3, "inside")]),
        ([0, 1], [(0, 1, "between")]),
        ([0, 1, 0, 1], [(0, 2, "inside"), (1, 3, "inside"), (0, 1, "between")]),
    ],
)
def test_pairs(nodes, pairs):
    assert choose_pairs(nodes) == pairs


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200))
def test_few_pairs_of_each_kind(nodes):
    pairs = choose_pairs(nodes)
    assert len(set(pairs)) == len(pairs)
    for first, second, kind in pairs:
        assert first != second
        assert (nodes[first] == nodes[second]) == (kind == "inside")
    kinds = [kind for _, _, kind in pairs]
    assert all(kinds.count(kind) <= most for kind, most in PAIRS.items())
    assert ("between" in kinds) == (len(set(nodes)) > 1)
    assert ("inside" in kinds) == (len(set(nodes)) < len(nodes))


@given(st.builds(Links, st.lists(PAIR).map(tuple), NUMBER, NUMBER))
def test_kept_as_json(links):
    assert Links.from_dict(json.loads(json.dumps(links.to_dict()))) == links


@pytest.mark.parametrize("fields", [{}, {"pairs": 3}, {"pairs": [{}], "copy": 1, "combine": 1}])
def test_other_json_is_refused(fields):
    with pytest.raises(ValueError, match="no measured links"):
        Links.from_dict(fields)


def test_medians():
    links = Links(
        tuple(Pair((0, i), "inside", Link(float(i), 10.0 * i)) for i in (3, 1, 2)), 1.0, 1.0
    )
    assert links.inside == Link(2.0, 20.0)
    assert links.between is None
