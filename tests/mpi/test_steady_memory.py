"""A training step after the first few keeps no memory."""

import gc
import tracemalloc

import numpy as np
import pytest
from long import only_on
from small_models import small_model

import hpcpar
from hpcpar.comm import Communicator
from hpcpar.optim import clip_scale
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize


@pytest.fixture
def own_comm():
    """Without the rooms that messages of other tests have left."""
    with Communicator(check=True, timeout=20) as communicator:
        yield communicator


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("schedule", "zero", "recompute"),
    [("1f1b", 0, False), ("1f1b", 1, True), ("zero-bubble", 2, False), ("interleaved", 3, False)],
)
def test_memory_does_not_grow_from_step_to_step(own_comm, schedule, zero, recompute):
    if zero in (0, 2):
        only_on(own_comm.size, 1, 2, 3, 4)
    plain, part = small_model("gpt", layers=2)
    pipeline = 2 if own_comm.size % 2 == 0 else 1
    layout = ParallelConfig(pipeline=pipeline, schedule=schedule, zero=zero, recompute=recompute)
    mesh = hpcpar.Mesh(own_comm, **layout.sizes(own_comm.size))
    model = parallelize(plain, mesh, layout, BatchConfig(12, 2, 4))
    model.initialize(0)

    def steps(count: int) -> None:
        for number in range(count):
            model.loss_and_gradients(part, (np.arange(12) + number) % 64)
            model.update.step(1e-3, clip_scale(model.update.norm(), 1.0))

    def rooms() -> int:
        """Bytes that messages land in: one room for each that is under way, used again."""
        return sum(room.nbytes for room in own_comm._mail._rooms)

    tracemalloc.start()
    try:
        steps(4)
        gc.collect()
        before, arena = tracemalloc.get_traced_memory()[0] - rooms(), model.arena.bytes
        steps(12)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - rooms() - before
    finally:
        tracemalloc.stop()
    assert model.arena.lent == 0
    assert len(own_comm._mail._rooms) <= 4 * model.slots
    # How many messages are under way at once is a matter of time; each has 1 kB.
    assert model.arena.bytes - arena <= 8 * 1024
    # Twelve gradients have 400 kB; Python's free lists of small tuples grow to tens.
    assert grown < 100_000
    mesh.close()
