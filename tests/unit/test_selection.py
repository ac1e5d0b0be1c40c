"""Tables of algorithms, and the cache that keeps them: whatever lies there, nothing breaks."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcpar.comm.selection import Selection, candidates
from hpcpar.comm.selection.cache import cache_path, load, store
from hpcpar.comm.selection.table import LARGE, OPERATIONS
from hpcpar.comm.selection.trial import SIZES, make_table, pick

NODES = [0, 0, 1, 1]
FACTS = {"processor": "one", "cores": 2, "ranks": 4, "nodes": [[0, 2], [1, 2]], "hpcpar": "1"}
KEPT = Selection(
    {
        "allreduce": ((65536, "direct"), (None, "hierarchical")),
        "bcast": ((1000, "tree"), (2000, "chain"), (None, "auto")),
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
ROW = st.tuples(
    st.none() | st.integers(-5, 2**70) | st.booleans(),
    st.sampled_from(["auto", "direct", "halving", "ring", "mpi", "tree", "hierarchical", 5]),
).map(list)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hpcpar"


def test_choose():
    assert [KEPT.choose("allreduce", size) for size in (0, 65536, 65537, 2**60)] == [
        "direct", "direct", "hierarchical", "hierarchical",
    ]  # fmt: skip
    assert KEPT.choose("bcast", 2000) == "chain"
    assert KEPT.choose("bcast", 2001) == KEPT.choose("gather", 1) == "auto"
    assert Selection().choose("allreduce", 1) == "auto"


@pytest.mark.parametrize(
    ("nodes", "far"),
    [
        ([0, 0, 0, 0], False),
        ([0, 1, 2, 3], False),
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 1], True),
        ([0, 1, 0, 1], False),  # its tree would be another one
    ],
)
def test_candidates_have_the_bits_of_the_tree(nodes, far):
    for operation in OPERATIONS:
        found = candidates(operation, nodes)
        assert ("hierarchical" in found) == far
        assert len(found) >= 2 and not {"ring", "mpi", "symmetric"} & set(found)


def test_two_ranks_have_no_choice():
    assert candidates("allreduce", [0, 0]) == candidates("bcast", [0, 1]) == ()


def test_the_kernel_reaches_one_node():
    assert candidates(LARGE, [0, 0, 0]) == ("remote", "halving")
    assert candidates(LARGE, NODES) == candidates(LARGE, [0, 0]) == ()
    kept = {LARGE: [[None, "halving"]]}
    assert Selection.from_dict(kept, [0] * 4).choose(LARGE, 1) == "halving"
    with pytest.raises(ValueError, match="large allreduce takes auto"):
        Selection.from_dict(kept, NODES)


@given(st.lists(st.sampled_from(["a", "b"]), max_size=len(SIZES)))
def test_tables_say_what_was_fastest(fastest):
    selection = Selection({"bcast": make_table(fastest)})
    for place, size in enumerate(SIZES):
        expected = fastest[place] if place < len(fastest) else "auto"
        assert selection.choose("bcast", size) == expected
    assert selection.choose("bcast", 0) == (fastest[0] if fastest else "auto")
    complete = len(fastest) == len(SIZES)
    assert selection.choose("bcast", 1 << 40) == (fastest[-1] if complete else "auto")
    limits = [limit for limit, _ in make_table(fastest)]
    assert limits[-1] is None and limits[:-1] == sorted(set(limits[:-1]))


def test_near_is_as_good():
    assert pick(["a", "b"], [1.05, 1.0]) == "a"
    assert pick(["a", "b", "c"], [1.2, 1.05, 1.0]) == "b"
    assert pick(["a", "b"], [2.0, 1.0]) == "b"


def test_kept_and_found(cache):
    store(FACTS, KEPT)
    assert load(FACTS, NODES) == KEPT
    assert [path.name for path in cache.iterdir()] == [cache_path(FACTS).name]
    assert Selection.from_dict(json.loads(json.dumps(KEPT.to_dict())), NODES) == KEPT


@pytest.mark.parametrize("fact", FACTS)
def test_another_machine_has_another_file(fact):
    store(FACTS, KEPT)
    other = FACTS | {fact: "another"}
    assert cache_path(other) != cache_path(FACTS)
    assert load(other, NODES) is None
    cache_path(FACTS).rename(cache_path(other))  # a file that is not what its name says
    assert load(other, NODES) is None


def test_other_nodes_may_not_use_what_adds_in_another_order():
    store(FACTS, KEPT)
    assert load(FACTS, [0, 1, 0, 1]) is None


def test_no_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store(FACTS, KEPT)
    assert load(FACTS, NODES) is None


@pytest.mark.parametrize("value", ["", "relative"])
def test_the_cache_is_at_home_by_default(tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path(FACTS).parent == tmp_path / ".cache" / "hpcpar"


@settings(max_examples=40)  # each flushes a file to the disk
@given(st.data())
def test_damaged_files(data):
    store(FACTS, KEPT)
    path = cache_path(FACTS)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=20)) + whole[stop:])
    found = load(FACTS, NODES)
    assert found is None or fits(found)
    path.unlink()
    os.mkdir(path)
    assert load(FACTS, NODES) is None
    os.rmdir(path)


@given(JSON | st.fixed_dictionaries({"facts": st.just(FACTS), "tables": JSON}))
def test_foreign_files(content):
    path = cache_path(FACTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    found = load(FACTS, NODES)
    assert found is None or fits(found)


@given(st.dictionaries(st.sampled_from(["allreduce", "bcast", "gather"]), st.lists(ROW)))
def test_tables_are_right_or_refused(tables):
    try:
        found = Selection.from_dict(tables, NODES)
    except ValueError:
        return
    assert fits(found) and found.to_dict() == tables


def fits(selection: Selection) -> bool:
    """Whether every choice is one of those that have the bits of the tree."""
    return all(
        selection.choose(name, size) in ("auto", *candidates(name, NODES))
        for name in OPERATIONS
        for size in (0, *SIZES, 1 << 62)
    )
