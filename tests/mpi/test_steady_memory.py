"""A training step after the first few keeps no memory."""

import gc
import tracemalloc

import numpy as np
import pytest

from hpcpar.nn import Flat, gpt
from hpcpar.optim import OptimConfig, clip_scale, make_optimizer
from hpcpar.parallel import BatchConfig, DataParallel, SharedUpdate


class Noise:
    """Samples of random tokens."""

    targets_per_sample = 16

    def __len__(self) -> int:
        return 64

    def batch(self, indices):
        tokens = np.random.default_rng(indices).integers(0, 31, (len(indices), 17))
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


@pytest.mark.mpi
def test_memory_does_not_grow_from_step_to_step(comm):
    model = gpt(layers=2, heads=2, width=32, context=16, vocabulary=31)
    flat = Flat(model.parameters, np)
    weights = flat.empty()
    flat.initialize(weights, 0)
    params = flat.params_views(weights)
    optimizer = make_optimizer(OptimConfig(), flat.parameters, np)
    parallel = DataParallel(model, flat, params, Noise(), BatchConfig(24, 2, 6), comm)
    update = SharedUpdate(optimizer, weights, params, parallel.gradients, comm)

    def steps(count: int) -> None:
        for number in range(count):
            parallel.loss_and_gradients(np.arange(24) + number)
            update.step(1e-3, clip_scale(update.norm(), 1.0))

    tracemalloc.start()
    try:
        steps(5)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        steps(40)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # An array of the gradient has 100 kB; Python's free lists of small tuples grow to tens.
    assert grown < 80_000
