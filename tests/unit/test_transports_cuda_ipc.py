"""Shared GPU memory on a stand-in for the CUDA runtime: two processes' view of one card."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest


class DeviceArray(np.ndarray):
    def get(self):
        return np.array(self)


class Card:
    """Memory of one card; handles are good for all processes that may see it."""

    def __init__(self):
        self.memory, self.opened, self.closed = {}, [], []
        self.reachable = True
        self.zeros = False  # a driver that says yes and copies zeros

    class CUDARuntimeError(RuntimeError):
        pass

    def malloc(self, size):
        if size > 1 << 30:
            raise self.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        pointer = 4096 * (len(self.memory) + 1)
        self.memory[pointer] = np.full(size, 171, np.uint8)
        return pointer

    def ipcGetMemHandle(self, pointer):
        return pointer.to_bytes(64, "little")

    def ipcOpenMemHandle(self, handle):
        if not self.reachable:
            raise self.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        pointer = int.from_bytes(handle, "little")
        self.opened.append(pointer)
        return pointer

    def ipcCloseMemHandle(self, pointer):
        self.closed.append(pointer)

    def ndarray(self, shape, dtype, start):
        memory = start[0][0]
        content = self.memory[memory][: shape[0]]
        array = (np.zeros_like(content) if self.zeros else content).view(DeviceArray)
        array.owner = start[0][2]
        return array


@pytest.fixture
def card(monkeypatch):
    card, cupy = Card(), ModuleType("cupy")
    stream = SimpleNamespace(synchronize=lambda: None)
    cupy.cuda = SimpleNamespace(
        runtime=card,
        UnownedMemory=lambda *facts: facts,
        MemoryPointer=lambda *facts: facts,
        Device=lambda: SimpleNamespace(id=0),
        get_current_stream=lambda: stream,
    )
    cupy.ndarray, cupy.uint8, cupy.asarray = card.ndarray, np.uint8, np.asarray
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "hpcpar.comm.transports.cuda_ipc", raising=False)
    card.module = importlib.import_module("hpcpar.comm.transports.cuda_ipc")
    yield card
    sys.modules.pop("hpcpar.comm.transports.cuda_ipc")


@pytest.mark.parametrize("size", [0, 1, 16, 3 << 20])
def test_two_processes_see_the_same_memory(card, size):
    mine, theirs = card.module.CudaMemory(), card.module.CudaMemory()
    local, token = mine.allocate(size)
    assert len(token) == mine.TOKEN
    peer = theirs.open(token, size)
    mine.close()
    assert local.shape == peer.shape == (size,)
    assert not local.any() and not peer.any(), "zeroed, and the mark is gone"
    local[...] = 5
    assert np.all(peer == 5)


def test_a_process_does_not_open_its_own_handle(card):
    memory = card.module.CudaMemory()
    local, token = memory.allocate(100)
    local[:] = 3
    assert np.all(memory.open(token, 100) == 3)
    assert card.opened == []


def test_no_two_blocks_share_a_page(card):
    memory = card.module.CudaMemory()
    for size in (0, 1, (2 << 20) + 1):
        memory.allocate(size)
    assert all(len(block) % (2 << 20) == 0 for block in card.memory.values())


def test_memory_that_cannot_be_reached_says_what_to_do(card):
    _, token = card.module.CudaMemory().allocate(100)
    card.reachable = False
    with pytest.raises(OSError, match=r"invalid device ordinal.*--gpus-per-node"):
        card.module.CudaMemory().open(token, 100)


def test_a_driver_that_copies_zeros_is_found_out(card):
    _, token = card.module.CudaMemory().allocate(100)
    card.zeros = True
    with pytest.raises(OSError, match="not what its owner wrote"):
        card.module.CudaMemory().open(token, 100)


def test_no_memory_is_an_os_error(card):
    with pytest.raises(OSError, match="out of memory"):
        card.module.CudaMemory().allocate(2 << 30)


def test_a_peers_memory_is_closed_with_its_last_array(card):
    _, token = card.module.CudaMemory().allocate(100)
    peer = card.module.CudaMemory().open(token, 100)
    assert card.closed == []
    del peer
    assert card.closed == card.opened != []
