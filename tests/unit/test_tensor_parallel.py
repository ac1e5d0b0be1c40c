"""Tiles, and the ground that layers which ranks share stand on: the same bits wherever they lie."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.nn import Arena, Cut, Flat, Model, gpt, linear, mlp
from hpcpar.nn.ops import attention, embedding
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.parallel.tile_products import tile_product
from hpcpar.parallel.tiles import deal_tiles
from hpcpar.tree import Subtotals

random = np.random.default_rng(0)


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5),
       st.integers(1, 3))  # fmt: skip
def test_every_element_is_in_one_tile_of_one_rank(extent, tiles, size, unit, groups):
    size = min(size, tiles, extent)
    dealt = [deal_tiles("units", extent, tiles, rank, size, unit) for rank in range(size)]
    expected = [
        range(a[0] * unit, (a[-1] + 1) * unit)
        for a in np.array_split(np.arange(extent), min(tiles, extent))
    ]
    whole = np.arange(extent * unit * groups).reshape(1, -1)
    seen = np.full_like(whole, -1)
    for part in dealt:
        assert part.runs == tuple(expected)  # whatever the ranks
        cut = Cut(whole.shape, 1, part.cuts(groups))
        held = cut.take(whole)
        cut.put(held, seen)
        for number, places in zip(part.mine, part.places(groups), strict=True):
            for group, at in enumerate(places):
                top = group * extent * unit
                assert held[0, at].tolist() == [top + i for i in part.runs[number]]
    assert np.array_equal(seen, whole)
    assert [number for part in dealt for number in part.mine] == list(range(len(expected)))


@pytest.mark.parametrize(
    ("extent", "tiles", "message"), [(3, 8, "share 3 heads: take at most 3"), (9, 2, "2 tiles")]
)
def test_more_ranks_than_there_is_to_share(extent, tiles, message):
    with pytest.raises(ValueError, match=message):
        deal_tiles("heads", extent, tiles, 0, 4)


SHAPES = [(30, 64, 16), (256, 256, 64), (17, 61, 15), (5, 8, 1), (1, 9, 6), (6, 1, 7), (1, 8, 1)]


@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
@pytest.mark.parametrize("turned", ["", "a", "b"])
def test_products_have_the_same_bits_wherever_the_matrices_lie(rows, inner, columns, turned):
    arena, a, b = Arena(), normal(rows, inner), normal(inner, columns)
    expected = None
    for pad in (0, 1, 3, 16, 192):
        left, right = (
            _inside(matrix.T, pad).T if name == turned else _inside(matrix, pad)
            for name, matrix in (("a", a), ("b", b))
        )
        out = _inside(np.zeros((rows, columns), np.float32), pad)
        tile_product(left, right, out, arena)
        expected = out.copy() if expected is None else expected
        assert out.tobytes() == expected.tobytes()
    np.testing.assert_allclose(expected, a @ b, rtol=1e-4, atol=1e-4)


def _inside(matrix, pad):
    """The matrix as the last columns of one that has more."""
    wide = normal(len(matrix), matrix.shape[1] + pad)
    wide[:, pad:] = matrix
    return wide[:, pad:]


@pytest.mark.parametrize("size", [1.0, 40.0])  # scores of the second kind have to be shifted
def test_a_head_has_the_same_bits_whichever_are_with_it(size):
    batch, length, heads, width = 2, 70, 6, 8
    qkv = normal(batch, length, 3, heads, width)
    qkv[0, :, :2, 1] *= size  # one head of one sequence
    bias, dout = normal(3, heads, width), normal(batch, length, heads, width)

    def run(own):
        arena, count = Arena(), len(own)
        part = np.ascontiguousarray(qkv[:, :, :, own]).reshape(batch, length, -1)
        out = np.empty((batch, length, count * width), np.float32)
        scores = np.zeros((batch, count, length, length), np.float32)
        inverse = np.empty((batch, count, length, 1), np.float32)
        b = np.ascontiguousarray(bias[:, own]).reshape(-1)
        attention.forward(part, b, count, out, scores, inverse, arena)
        kept, dqkv = out.copy(), np.empty_like(part)
        d = np.ascontiguousarray(dout[:, :, own]).reshape(out.shape)
        attention.backward(d, out, part, count, scores, inverse, dqkv, arena)
        shape = batch, length, 3, count, width
        return kept.reshape(batch, length, count, width), dqkv.reshape(shape)

    out, dqkv = run(range(heads))
    for own in ([0], [1], [2, 3], [1, 4, 5]):
        out_part, dqkv_part = run(own)
        assert np.array_equal(out_part, out[:, :, own])
        assert np.array_equal(dqkv_part, dqkv[:, :, :, own])


@pytest.mark.parametrize("cuts", [[0, 11], [0, 4, 11], [0, 1, 5, 6, 11]])
def test_a_table_in_parts(cuts):
    table, tokens, dy = normal(11, 6), random.integers(0, 11, 40), normal(40, 6)
    table[3], table[4, 2] = -0.0, 0.0
    tokens[tokens == 5] = 6  # one that does not occur
    whole, gradient = np.empty((40, 6), np.float32), np.empty_like(table)
    embedding.forward(tokens, table, whole)
    embedding.backward(tokens, dy, gradient, Arena())
    total = np.full_like(whole, -0.0)
    for first, stop in itertools.pairwise(cuts):
        out, part = np.empty_like(whole), np.empty_like(table[first:stop])
        embedding.forward_part(tokens, table[first:stop], first, 11, out)
        total += out
        embedding.backward(tokens, dy, part, Arena(), first)
        assert np.array_equal(part, gradient[first:stop])
    assert total.tobytes() == whole.tobytes()
    with pytest.raises(ValueError, match="from 0 to 10"):
        embedding.forward_part(np.array([11]), table[:5], 0, 11, np.empty((1, 6), np.float32))


@pytest.mark.parametrize("rows", [1, 7, 130, 1000])
def test_sums_of_rows_have_the_same_bits_whichever_columns_are_there(rows):
    whole = normal(rows, 70)
    total = whole.sum(axis=0)
    for start, stop in [(0, 2), (3, 8), (5, 69), (68, 70)]:
        assert np.array_equal(whole[:, start:stop].sum(axis=0), total[start:stop])
        assert np.array_equal(whole[:, start:stop].copy().sum(axis=0), total[start:stop])


def test_subtotals_borrow_and_return():
    arena = Arena()
    sums = Subtotals(7, np.empty(3), arena)
    for leaf in (2, 0, 1, 3):
        array = sums.buffer()
        array[...] = leaf
        sums.add(leaf, array)
    (root,) = sums.take(range(4))
    assert root.tolist() == [6, 6, 6]
    arena.give(root)
    assert arena.lent == 0


def loss_and_gradients(model: Model, inputs, targets):
    flat = Flat(model.parameters, np)
    weights, gradient = flat.empty(), flat.empty_gradients()
    flat.initialize(weights, seed=1)
    p, g = flat.params_views(weights), flat.gradient_views(gradient)
    loss = model.loss_and_gradients(p, g, inputs, targets, 0.1, Arena())
    return loss, gradient


def test_one_tile_is_the_plain_model():
    model = gpt(1, 2, 8, 6, 11)
    assert tensor_parallel(model, None, None) is model
    assert tensor_parallel(model, None, 1) is model


def test_inputs_of_another_width():
    shared = tensor_parallel(linear(10, 3, "regression"), None, 3)
    with pytest.raises(ValueError, match=r"linear.weight takes inputs \(B, 10\), not \(4, 9\)"):
        loss_and_gradients(shared, normal(4, 9), normal(4, 3))


def test_what_cannot_be_shared():
    class Strange:
        parameters = ()

    with pytest.raises(ValueError, match="Strange"):
        tensor_parallel(Model([Strange()], None, 0), None, 2)
    tokens = np.arange(6).reshape(1, 6)
    shared = tensor_parallel(gpt(1, 2, 8, 6, 11), None, 2)
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match=f"{wrong}.*the vocabulary from 0 to 10"):
            loss_and_gradients(shared, tokens, np.where(tokens == 3, wrong, tokens))


def test_logits_that_do_not_fit_a_float_by_themselves():
    """The largest of a row is taken from all before the exponentials."""
    model = gpt(1, 2, 8, 6, 11)
    tokens = np.arange(6).reshape(1, 6)

    def run(layout):
        flat, arena = Flat(layout.parameters, np), Arena()
        weights = flat.empty()
        flat.initialize(weights, seed=1)
        p = flat.params_views(weights)
        p["transformer.wte.weight"] *= 1e4
        return layout.loss(p, tokens, tokens[:, ::-1], arena)

    plain = run(model)
    assert 100 < plain < np.inf
    assert run(tensor_parallel(model, None, 4)) == pytest.approx(plain, rel=1e-6)


def test_mlps_pair_up():
    kinds = [
        type(layer).__name__
        for layer in tensor_parallel(mlp(9, 3, 8, 4, "regression"), None, 2).layers
    ]
    assert kinds == ["RowDense", "ColumnDense", "RowDense", "ColumnDense", "RowDense"]
