"""Norm and update shared by the ranks are those of one rank, bit for bit."""

import numpy as np
import pytest

from hpcpar.nn import Flat, gpt
from hpcpar.optim import OptimConfig, global_norm, make_optimizer
from hpcpar.parallel import SharedUpdate


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_shared_is_alone(comm, name):
    model = gpt(layers=1, heads=2, width=34, context=8, vocabulary=131)  # no size is a round number
    flat = Flat(model.parameters, np)
    mine, alone = flat.empty(), flat.empty()
    flat.initialize(mine, 3)
    alone[...] = mine
    config = OptimConfig(name=name)
    shared, plain = (make_optimizer(config, flat.parameters, np) for _ in range(2))
    gradient = flat.empty_gradients()
    views = flat.gradient_views(gradient)
    update = SharedUpdate(shared, mine, flat.params_views(mine), views, comm)
    for step in range(3):
        gradient[...] = np.random.default_rng(step).standard_normal(gradient.size)
        norm = update.norm()
        assert norm == global_norm(views, flat.names)
        update.step(1e-2, 1 / norm)
        plain.update(flat.params_views(alone), views, 1e-2, 1 / norm)
        assert np.array_equal(mine, alone)
    update.gather_state()
    for kind, tensors in plain.state.items():
        for parameter, array in tensors.items():
            assert np.array_equal(shared.state[kind][parameter], array)


@pytest.mark.mpi
def test_a_norm_that_is_no_number(comm):
    flat = Flat(gpt(1, 1, 4, 4, 7).parameters, np)
    gradient = flat.empty_gradients()
    gradient.fill(0)
    gradient[-1 - 7 * 4] = np.nan  # in the last parameter
    weights, views = flat.empty(), flat.gradient_views(gradient)
    optimizer = make_optimizer(OptimConfig(), flat.parameters, np)
    update = SharedUpdate(optimizer, weights, flat.params_views(weights), views, comm)
    assert np.isnan(update.norm())
