"""One selection for all ranks: measured once, rank 0's, and in no ledger."""

import json

import numpy as np
import pytest

from hpcpar.comm import agree
from hpcpar.comm.selection import Selection, candidates, find, find_selection, trial
from hpcpar.comm.selection.table import OPERATIONS

CALLS = "measurements"


@pytest.fixture
def cache(comm, tmp_path, monkeypatch):
    """A cache of each rank's own: only rank 0's may count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{comm.rank}"))
    monkeypatch.delenv("HPCPAR_SELECTION", raising=False)
    return tmp_path / f"cache{comm.rank}" / "hpcpar"


@pytest.fixture
def count(comm, monkeypatch):
    """How often this rank has measured; each time, each rank would choose something else."""
    counts = {CALLS: 0}

    def measure(communicator):
        counts[CALLS] += 1
        communicator.barrier()
        return Selection({"bcast": ((5 + comm.rank + counts[CALLS], "chain"), (None, "tree"))})

    monkeypatch.setattr(find, "measure_selection", measure)
    return counts


@pytest.mark.mpi(min_size=3)
def test_measured_once(comm, cache, count):
    first = find_selection(comm)
    assert find_selection(comm) == first
    assert count[CALLS] == 1
    assert first.to_dict() == {"bcast": [[6, "chain"], [None, "tree"]]}  # rank 0's
    files = list(cache.glob("*")) if cache.exists() else []
    assert len(files) == (comm.rank == 0)


@pytest.mark.mpi(min_size=3)
def test_a_damaged_file_is_measured_again(comm, cache, count):
    find_selection(comm)
    if comm.rank == 0:
        (path,) = cache.iterdir()
        path.write_text(path.read_text()[:-9])
    assert find_selection(comm).to_dict() == {"bcast": [[7, "chain"], [None, "tree"]]}
    assert find_selection(comm).to_dict() == {"bcast": [[7, "chain"], [None, "tree"]]}
    assert count[CALLS] == 2


@pytest.mark.mpi(min_size=3)
def test_a_cache_that_cannot_be_written(comm, tmp_path, monkeypatch, cache, count):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert find_selection(comm).to_dict() == {"bcast": [[6, "chain"], [None, "tree"]]}


def test_the_variable_on_rank_0(comm, cache, count, monkeypatch):
    if comm.rank == 0:
        monkeypatch.setenv("HPCPAR_SELECTION", "default")
    assert find_selection(comm) == Selection()
    assert count[CALLS] == 0


def test_two_ranks_have_nothing_to_measure(comm, cache, count):
    part = comm.split(comm.rank // 2, comm.rank)
    with part:
        assert find_selection(part) == Selection()
    assert count[CALLS] == 0


@pytest.mark.mpi(min_size=3)
def test_measurement(unchecked):
    before = str(unchecked.ledger)
    nodes = [int(node) for node in unchecked.allgather(np.array([unchecked.node]))]
    counted = str(unchecked.ledger)
    selection = trial.measure_selection(unchecked)
    assert str(unchecked.ledger) == counted != before
    tables = [json.loads(text) for text in agree(unchecked, json.dumps(selection.to_dict()))]
    assert tables == [tables[0]] * unchecked.size
    assert Selection.from_dict(tables[0], nodes) == selection
    for name in OPERATIONS:
        assert selection.choose(name, 1) in ("auto", *candidates(name, nodes))


@pytest.mark.mpi(min_size=3)
def test_candidates_have_the_same_bits(comm):
    random = np.random.default_rng(comm.rank)
    nodes = [int(node) for node in comm.allgather(np.array([comm.node]))]
    for count in (1 << 12, 100_001):
        x = random.standard_normal(count).astype(np.float32)
        expected = comm.allreduce(x).tobytes()
        for algorithm in candidates("allreduce", nodes):
            assert comm.allreduce(x, algorithm=algorithm).tobytes() == expected


@pytest.mark.mpi(min_size=3)
def test_a_candidate_that_this_version_lacks_is_left_out(comm, monkeypatch):
    monkeypatch.setattr(trial, "candidates", lambda operation, nodes: ("unheard", "direct", "tree"))
    monkeypatch.setattr(trial, "SIZES", (256, 512, 1024))
    monkeypatch.setattr(trial, "SECONDS", 60)
    monkeypatch.setattr(trial, "_measure_large", lambda comm, algorithms: ((None, "remote"),))
    found = trial.measure_selection(comm)
    assert {name for _, name in found.tables["allreduce"]} == {"direct"}
    assert {name for _, name in found.tables["bcast"]} == {"tree"}
