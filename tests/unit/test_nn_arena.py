"""Arrays are used again, and micro-batches in flight do not share any."""

import tracemalloc

import numpy as np
import pytest

from hpcpar.nn import Arena, Flat, gpt, mlp
from hpcpar.optim import OptimConfig, clip_scale, make_optimizer, norm_of, square_sums

random = np.random.default_rng(0)


def ready(model, dtype=np.float32):
    flat = Flat(model.parameters, np, dtype)
    weights, gradients = flat.empty(), flat.empty_gradients()
    flat.initialize(weights, seed=3)
    return flat, flat.params_views(weights), flat.gradient_views(gradients)


def test_take_and_give():
    arena = Arena()
    a = arena.take((3, 4), np.float32)
    b = arena.take((3, 4), np.float32)
    assert a.shape == (3, 4) and a.dtype == np.float32 and a.flags.c_contiguous
    assert not np.shares_memory(a, b)
    arena.give((a, [b]))
    assert arena.lent == 0
    c = arena.take((3, 4), np.dtype("float32"))
    assert c is a or c is b
    d = arena.take((3, 4), np.float64)
    assert not np.shares_memory(c, d)


def test_memory_is_used_again_for_other_shapes():
    arena = Arena()
    first = arena.take((3, 4), np.float32)
    arena.give(first)
    for shape, dtype in [((12,), np.int32), ((2, 3), np.float64), ((1, 2, 6), np.float32)]:
        array = arena.take(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous
        assert np.shares_memory(array, first)
        arena.give(array)
    assert arena.bytes == 48
    with pytest.raises(ValueError, match="not lent"):
        arena.give(first)


def test_arrays_larger_than_a_slab_and_empty_ones():
    arena = Arena()
    for shape in [(0, 5), (), (3,), (1 << 25,), (7, 1)]:
        array = arena.take(shape, np.float32)
        array.fill(1)
        assert array.shape == shape


@pytest.mark.parametrize("wrong", ["twice", "foreign", "view"])
def test_give_refuses(wrong):
    arena = Arena()
    a = arena.take((3, 4), np.float32)
    array = {"twice": a, "foreign": np.empty((3, 4), np.float32), "view": a[:2]}[wrong]
    if wrong == "twice":
        arena.give(a)
    with pytest.raises(ValueError, match="not lent"):
        arena.give(array)


def test_steady_steps_allocate_nothing():
    """Neither in the arena, nor beside it: the peak of a step stays far below one activation."""
    model = gpt(layers=2, heads=2, width=64, context=64, vocabulary=256)
    flat, p, g = ready(model)
    arena = Arena()
    optimizer = make_optimizer(OptimConfig(), flat.parameters, np)
    x = random.integers(0, 256, (9, 8, 65))

    def step(i):
        model.loss_and_gradients(p, g, x[i, :, :-1], x[i, :, 1:], 1 / 512, arena)
        flat.fold(g)
        squares = [s for name in flat.names for s in square_sums(g[name])]
        scale = clip_scale(norm_of(squares), 1.0)
        optimizer.update(p, g, 1e-3, scale)

    for i in range(3):
        step(i)
    allocated = arena.bytes
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(3, 9):
        step(i)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert arena.bytes == allocated
    assert arena.lent == 0
    assert (
        now - before < 20_000
    )  # names and numbers; an activation has 512 * 64 * 4 = 131,072 bytes
    # the norm's float64 copy of 8 blocks of 4096 elements is the largest passing array
    assert peak - before < 2 * 8 * 4096 * 8


def test_micro_batches_in_flight():
    """Backward in another order than forward, and after other forwards, gives the same bits."""
    model = gpt(layers=2, heads=2, width=16, context=8, vocabulary=13)
    _, p, g = ready(model)
    batches = [(random.integers(0, 13, (2, 8)), random.integers(0, 13, (2, 8))) for _ in range(4)]

    def backward(outputs, saved, targets, arena):
        _, gradient = model.loss_function.value_and_gradient(outputs, targets, 0.5, arena)
        model.backward(p, g, gradient, saved, arena)
        return {name: value.copy() for name, value in g.items()}

    alone = []
    for x, y in batches:
        arena = Arena()
        alone.append(backward(*model.forward(p, x, arena), y, arena))
    arena = Arena()
    flying = [model.forward(p, x, arena) for x, _ in batches]
    for i in (2, 0, 3, 1):
        for name, value in backward(*flying[i], batches[i][1], arena).items():
            np.testing.assert_array_equal(value, alone[i][name], err_msg=f"{name} of {i}")
    assert arena.lent == 0


@pytest.mark.parametrize("kind", ["gpt", "mlp"])
def test_inputs_and_targets_stay(kind):
    if kind == "gpt":
        model = gpt(1, 2, 16, 8, 13)
        x, y = random.integers(0, 13, (2, 2, 8))
    else:
        model = mlp(8, 13, 16, 2, "classification")
        x, y = random.standard_normal((2, 8), np.float32), random.integers(0, 13, 2)
    _, p, g = ready(model)
    kept = x.copy(), y.copy()
    model.loss_and_gradients(p, g, x, y, 1.0, Arena())
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


def test_bits_depend_on_shapes_and_values_only():
    """A micro-batch has the same bits whatever ran before, and wherever its arrays lie."""
    model = gpt(layers=2, heads=2, width=16, context=8, vocabulary=13)
    _, p, g = ready(model)
    x, y = random.integers(0, 13, (2, 2, 8))
    first = model.loss_and_gradients(p, g, x, y, 1.0, Arena())
    kept = {name: value.copy() for name, value in g.items()}
    arena = Arena()
    arena.take((77,), np.int8)
    for other in range(3):
        model.loss_and_gradients(p, g, (x + other) % 13, y, 1.0, arena)
    assert model.loss_and_gradients(p, g, x, y, 1.0, arena) == first
    for name, value in g.items():
        np.testing.assert_array_equal(value, kept[name], err_msg=name)
