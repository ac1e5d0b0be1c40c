"""Which transports a backend takes: the same on all ranks, or one error on all."""

import importlib.util

import pytest
from late_gpu import LateGpu
from late_nccl import LateNccl

from hpcpar.comm.transports import probe, roads
from hpcpar.comm.transports.direct import DirectTransport
from hpcpar.comm.transports.nccl import NcclTransport
from hpcpar.comm.transports.roads import open_roads
from hpcpar.comm.transports.staged import StagedTransport
from hpcpar.errors import UserError

pytestmark = pytest.mark.mpi


@pytest.fixture
def opened(comm, monkeypatch):
    """open_roads of a backend, with what each rank finds."""

    def open_(backend, aware=True, local_rank=0, module=None):
        asked = []
        monkeypatch.setattr(probe, "cuda_aware", lambda cache: asked.append(cache) or aware)
        if module is not None:
            monkeypatch.setattr(roads, "load_nccl", lambda: module)
        found = open_roads(backend, LateGpu(), comm.mpi, local_rank, 20)
        return found, asked

    return open_


def test_staged_asks_nothing(opened):
    found, asked = opened("staged")
    assert type(found.collectives) is StagedTransport and found.messages is found.collectives
    assert asked == [] and found.nccl is None


@pytest.mark.parametrize("backend", ["auto", "mpi"])
def test_an_mpi_that_takes_gpu_memory(opened, backend, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, asked = opened(backend)
    assert type(found.collectives) is DirectTransport and found.messages is found.collectives
    assert asked == [tmp_path / "hpcpar"]


def test_one_rank_of_a_node_finds_out(comm, opened):
    _, asked = opened("auto", local_rank=comm.rank)
    assert len(asked) == (comm.rank == 0)


def test_one_node_that_does_not_is_enough(comm, opened):
    aware = comm.rank != comm.size - 1
    found, _ = opened("auto", aware=aware)
    assert type(found.collectives) is StagedTransport
    with pytest.raises(UserError, match="does not take GPU arrays; take auto or staged"):
        opened("mpi", aware=aware)


@pytest.mark.parametrize("aware", [True, False])
def test_messages_do_not_go_by_nccl(comm, opened, aware):
    channel = comm.mpi.Dup()
    found, _ = opened("nccl", aware, module=LateNccl(channel))
    assert found.nccl is found.collectives and isinstance(found.nccl, NcclTransport)
    assert type(found.messages) is (DirectTransport if aware else StagedTransport)
    found.nccl.close()
    channel.Free()


def test_without_nccl4py_it_says_what_to_install(opened):
    if importlib.util.find_spec("nccl") is not None:
        pytest.skip("needs a Python without nccl4py")
    with pytest.raises(UserError, match=r"backend nccl needs nccl4py .*hpcpar\[nccl12\]"):
        opened("nccl")
