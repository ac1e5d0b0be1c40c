"""Spans of positions, attention over them, products in tiles: the same whoever computes what."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.nn import Arena
from hpcpar.nn.attention import Attention
from hpcpar.nn.ops import score_blocks
from hpcpar.parallel import tile_products
from hpcpar.parallel.context import Context
from hpcpar.parallel.span_attention import SpanAttention
from hpcpar.parallel.spans import deal_spans
from hpcpar.schedule.shape import subtrees

random = np.random.default_rng(3)


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


@given(st.integers(1, 12), st.integers(1, 20))
def test_spans_of_ranks_without_tiles(ranks, width):
    length = ranks * width
    every = [deal_spans(length, rank, ranks, None) for rank in range(ranks)]
    assert sorted(number for spans in every for number in spans.mine) == list(range(every[0].count))
    if every[0].each == 2:  # all have the same to do
        pairs = {sum(number + 1 for number in spans.mine) for spans in every}
        assert len(pairs) == 1
    assert every[0].each == (2 if ranks > 1 and width % 2 == 0 else 1)


@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 16))
def test_spans_with_tiles_are_the_same_on_any_ranks(length, tiles, ranks):
    alone = deal_spans(length, 0, 1, tiles)
    assert length % alone.count == 0 and alone.count <= tiles
    assert not any(length % n == 0 for n in range(alone.count + 1, min(tiles, length) + 1))
    try:
        every = [deal_spans(length, rank, ranks, tiles) for rank in range(ranks)]
    except ValueError as error:
        assert "spans" in str(error)
        return
    assert {spans.order for spans in every} == {alone.order}
    assert tuple(number for spans in every for number in spans.mine) == alone.order
    for rank, spans in enumerate(every):  # what a rank adds up is one node of the tree
        start = rank * spans.each
        assert len(subtrees(start, start + spans.each, spans.count)) == 1


def test_spans_that_cannot_be_dealt():
    with pytest.raises(ValueError, match=r"take a --model\.context of 12"):
        deal_spans(10, 0, 4, None)
    with pytest.raises(
        ValueError,
        match="10 positions are cut into 5 spans, and the ranks that share them are 1, 5",
    ):
        deal_spans(10, 0, 2, 6)
    with pytest.raises(ValueError, match="7 tokens; ranks share spans of 8"):
        Context(None, 8, 4).cut(np.zeros((1, 7), np.int64))


STARTS = np.array([[0, 0, 2, 2, 2, 2, 2, 7, 8, 8, 8, 8], [0] * 11 + [11], [0] * 5 + [5] * 7], "i4")


@pytest.mark.parametrize("tiles", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])  # of the scores of one head; some overflow
@pytest.mark.parametrize("starts", [None, STARTS], ids=["", "documents"])
def test_attention_over_spans_is_attention(monkeypatch, tiles, size, starts):
    monkeypatch.setattr(score_blocks, "TILE", 2)
    batch, length, heads, width = 3, 12, 2, 4
    qkv, bias = normal(batch, length, 3, heads, width).astype("f8"), normal(3 * heads * width)
    qkv[1, :, :2, 1] *= size
    qkv, dout = qkv.reshape(batch, length, -1), normal(batch, length, heads * width).astype("f8")
    context = Context(None, length, tiles)

    def run(attention, cut):
        arena = Arena()
        own = cut(qkv)
        taken = arena.copy(own)
        kept = attention.forward(taken, bias, arena)
        out, d = kept.out.copy(), np.full_like(own, np.nan)
        attention.backward(cut(dout).copy(), kept, d, arena)
        arena.give(kept)
        assert arena.lent == 0
        return out, d

    one, other = Attention(heads), SpanAttention(context, heads)
    if starts is not None:
        one, other = one.within(starts), other.within(starts)
    plain = run(one, np.copy)
    for whole, part in zip(plain, run(other, context.cut), strict=True):
        expected = context.cut(whole)
        near = 1e-12 * np.abs(expected).max() * size
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=near)


SIZES = st.integers(1, 9)


@given(
    st.lists(SIZES, min_size=1, max_size=4),
    st.integers(1, 70),
    st.lists(SIZES, min_size=1, max_size=4),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
)
def test_tiles_at_once_have_the_bits_of_each(rows, inner, columns, scale, turn_a, turn_b):
    rows = [size * scale for size in rows]
    at, beside = runs(rows), runs(columns)
    a = normal(inner, sum(rows)).T if turn_a else normal(sum(rows), inner)
    b = normal(sum(columns), inner).T if turn_b else normal(inner, sum(columns))
    out, arena = np.full((sum(rows), sum(columns)), np.nan, np.float32), Arena()
    tile_products.tile_products(a, b, out, at, beside, arena)
    for tall in at:
        for wide in beside:
            alone = np.empty((tall.stop - tall.start, wide.stop - wide.start), np.float32)
            tile_products.tile_product(a[tall], b[:, wide], alone, arena)
            assert out[tall, wide].tobytes() == alone.tobytes()
    assert arena.lent == 0


def runs(sizes):
    stops = np.cumsum(sizes).tolist()
    return [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
