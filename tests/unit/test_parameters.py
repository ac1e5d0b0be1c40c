"""The layout of parameters in a flat buffer, tied uses, and the start."""

import numpy as np
import pytest

from hpcpar.nn import Cut, Flat, Parameter, gpt

A = Parameter("a", (2, 3), "normal", 0.5)
B = Parameter("b", (3,), "ones")
C = Parameter("c", (4,))
TIED = Parameter("again", (2, 3), tied_to="a")


def test_layout():
    flat = Flat([A, TIED, B, C], np)
    assert flat.names == ["a", "b", "c"]
    assert (flat.size, flat.uses_size) == (13, 19)
    weights = np.arange(13, dtype=np.float32)
    p = flat.params_views(weights)
    np.testing.assert_array_equal(p["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(p["c"], [9, 10, 11, 12])
    assert p["again"] is p["a"]
    assert all(np.shares_memory(view, weights) for view in p.values())
    assert flat.empty().shape == (13,) and flat.empty_gradients().shape == (19,)


def test_every_use_has_its_own_gradient_until_they_are_folded():
    flat = Flat([A, TIED, B, C], np)
    gradients = np.ones(19, np.float32)
    g = flat.gradient_views(gradients)
    g["again"][...] = 10
    assert (g["a"] == 1).all()
    np.testing.assert_array_equal(gradients[13:], 10)  # behind the parameters
    flat.fold(g)
    np.testing.assert_array_equal(gradients[:13], [11] * 6 + [1] * 7)


def test_decay_is_for_matrices():
    assert A.decay and not B.decay


def test_start_depends_on_the_name_not_on_the_order():
    def start(parameters, seed=5, dtype=np.float32):
        flat = Flat(parameters, np, dtype)
        weights = flat.empty()
        flat.initialize(weights, seed)
        return flat.params_views(weights)

    first, second = start([A, B, C, TIED]), start([C, Parameter("z", (9, 9), "normal", 1.0), B, A])
    np.testing.assert_array_equal(first["a"], second["a"])
    assert (first["b"] == 1).all() and (first["c"] == 0).all()
    assert (start([A], seed=6)["a"] != first["a"]).any()
    renamed = Parameter("other", A.shape, "normal", 0.5)
    assert (start([renamed])["other"] != first["a"]).any()
    np.testing.assert_array_equal(start([A], dtype=np.float64)["a"], first["a"])


def test_start_of_gpt2():
    """The standard deviations of Hugging Face and nanoGPT."""
    model = gpt(layers=2, heads=2, width=64, context=128, vocabulary=256)
    flat = Flat(model.parameters, np)
    weights = flat.empty()
    flat.initialize(weights, seed=0)
    p = flat.params_views(weights)
    for name, std in {
        "transformer.wte.weight": 0.02,
        "transformer.wpe.weight": 0.02,
        "transformer.h.1.attn.c_attn.weight": 0.02,
        "transformer.h.1.attn.c_proj.weight": 0.01,
        "transformer.h.0.mlp.c_fc.weight": 0.02,
        "transformer.h.0.mlp.c_proj.weight": 0.01,
    }.items():
        assert p[name].std() == pytest.approx(std, rel=0.05), name
    assert p["lm_head.weight"] is p["transformer.wte.weight"]


def test_the_very_numbers():
    """A run's start is part of its bits: no version may change it silently."""
    flat = Flat([Parameter("w", (2, 2), "normal", 1.0)], np)
    weights = flat.empty()
    flat.initialize(weights, seed=0)
    np.testing.assert_allclose(
        weights, [-1.5105119, -0.30800626, 1.2334269, -0.18317311], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([A, A], "two parameters are called 'a'"),
        ([A, Parameter("a", (2, 3), tied_to="a")], "two parameters are called 'a'"),
        ([B, TIED], "again .* is tied to a, which has shape None"),
        ([A, Parameter("again", (3, 2), tied_to="a")], r"has shape \(2, 3\)"),
    ],
)
def test_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        Flat(parameters, np)


def test_buffer_of_another_size():
    with pytest.raises(ValueError, match=r"shape \(12,\); it must be \(13,\)"):
        Flat([A, B, C], np).params_views(np.zeros(12, np.float32))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_cut_tensor_starts_as_the_part_of_the_whole(axis):
    whole = Parameter("w", (6, 9), "normal", 1.0)
    runs = [(range(0, 2), range(3, 4)), (range(2, 3), range(4, 6))]
    held = [whole.held(Cut((6, 9), axis, own)) for own in runs]
    together = np.full((6, 9), np.nan, np.float32)
    for parameter in held:
        flat = Flat([parameter], np)
        weights = flat.empty()
        flat.initialize(weights, seed=3)
        assert parameter.whole_shape == (6, 9)
        assert parameter.cut.take(together).shape == parameter.shape
        parameter.cut.put(flat.params_views(weights)["w"], together)
    flat = Flat([whole], np)
    weights = flat.empty()
    flat.initialize(weights, seed=3)
    here = (slice(None),) * axis + (slice(0, 6),)
    assert (together[here] == weights.reshape(6, 9)[here]).all()
    assert np.isnan(together).sum() == together.size - together[here].size
