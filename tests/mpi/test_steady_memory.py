"""A training step after the first few keeps no memory."""

import gc
import tracemalloc

import numpy as np
import pytest
from small_models import small_model

import hpcpar
from hpcpar.optim import clip_scale
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("schedule", "zero", "recompute"),
    [("1f1b", 0, False), ("1f1b", 1, True), ("zero-bubble", 2, False), ("interleaved", 3, False)],
)
def test_memory_does_not_grow_from_step_to_step(comm, schedule, zero, recompute):
    plain, part = small_model("gpt")
    pipeline = 2 if comm.size % 2 == 0 else 1
    layout = ParallelConfig(pipeline=pipeline, schedule=schedule, zero=zero, recompute=recompute)
    mesh = hpcpar.Mesh(comm, **layout.sizes(comm.size))
    model = parallelize(plain, mesh, layout, BatchConfig(24, 2, 6))
    model.initialize(0)

    def steps(count: int) -> None:
        for number in range(count):
            model.loss_and_gradients(part, (np.arange(24) + number) % 64)
            model.update.step(1e-3, clip_scale(model.update.norm(), 1.0))

    tracemalloc.start()
    try:
        steps(5)
        gc.collect()
        before, arena = tracemalloc.get_traced_memory()[0], model.arena.bytes
        steps(20)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert model.arena.bytes == arena and model.arena.lent == 0
    # The gradient has 90 kB; Python's free lists of small tuples grow to tens.
    assert grown < 70_000
    mesh.close()
