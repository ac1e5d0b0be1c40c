"""Every sample once an epoch, in an order that depends on the seed and the epoch alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.data import Sampler

sizes = {"samples": st.integers(1, 40), "batch": st.integers(1, 90), "seed": st.integers(0, 9)}


@given(**sizes, epochs=st.integers(1, 3))
def test_every_sample_once_an_epoch(samples, batch, seed, epochs):
    sampler = Sampler(samples, batch, seed)
    steps = -(-samples * epochs // batch)
    drawn = np.concatenate([sampler.indices(step) for step in range(steps)])
    assert len(drawn) == steps * batch
    for epoch in range(epochs):
        assert sorted(drawn[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(**sizes, steps=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_any_step_can_be_asked_for_in_any_order(samples, batch, seed, steps):
    used = Sampler(samples, batch, seed)
    for step in steps:
        assert np.array_equal(used.indices(step), Sampler(samples, batch, seed).indices(step))


@given(**sizes, step=st.integers(0, 50))
def test_the_state_is_epoch_and_position(samples, batch, seed, step):
    epoch, position = Sampler(samples, batch, seed).state(step)
    assert epoch * samples + position == step * batch and 0 <= position < samples


def test_epochs_and_seeds_differ():
    orders = {tuple(Sampler(50, 50, seed).indices(epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_nothing_to_sample():
    with pytest.raises(ValueError, match="0 samples"):
        Sampler(0, 1, 0)
