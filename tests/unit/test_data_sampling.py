"""Which samples a step has, and which are kept for validation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.data import Sampler
from hpcpar.data.split import split

sizes = {"samples": st.integers(1, 40), "batch": st.integers(1, 90), "seed": st.integers(0, 9)}


@given(**sizes, epochs=st.integers(1, 4))
def test_every_sample_once_an_epoch(samples, batch, seed, epochs):
    sampler = Sampler(samples, batch, seed)
    steps = -(-samples * epochs // batch)
    dealt = np.concatenate([sampler.indices(step) for step in range(steps)])
    assert len(dealt) == steps * batch
    for epoch in range(epochs):
        mine = dealt[epoch * samples : (epoch + 1) * samples]
        assert sorted(mine) == list(range(samples))


@given(**sizes, steps=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_batch_is_a_pure_function_of_the_step(samples, batch, seed, steps):
    used = Sampler(samples, batch, seed)
    for step in steps:
        assert np.array_equal(used.indices(step), Sampler(samples, batch, seed).indices(step))


@given(**sizes, step=st.integers(0, 60))
def test_the_state_tells_epoch_and_position(samples, batch, seed, step):
    epoch, position = Sampler(samples, batch, seed).state(step)
    assert 0 <= position < samples and epoch * samples + position == step * batch


def test_epochs_and_seeds_have_their_own_order():
    orders = {tuple(Sampler(30, 30, seed).indices(epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_numbers_of_a_long_run_do_not_overflow():
    assert Sampler(7, 2**20, 0).state(2**50) == divmod(2**70, 7)


@pytest.mark.parametrize(("samples", "batch"), [(0, 1), (1, 0)])
def test_nothing_to_deal(samples, batch):
    with pytest.raises(ValueError, match="at least 1"):
        Sampler(samples, batch, 0)
    with pytest.raises(ValueError, match="step is -1"):
        Sampler(1, 1, 0).indices(-1)


@given(samples=st.integers(2, 300), fraction=st.floats(0, 0.999))
def test_the_parts_are_disjoint_and_cover_everything(samples, fraction):
    train, validation = split(samples, fraction)
    assert len(train) and len(validation)
    assert sorted([*train, *validation]) == list(range(samples))
    assert abs(len(validation) - samples * fraction) <= 1
    assert np.array_equal(split(samples, fraction)[1], validation)


def test_validation_samples_are_drawn_from_everywhere():
    _, validation = split(10_000, 0.1)
    assert np.histogram(validation, 10, (0, 10_000))[0].min() > 60
