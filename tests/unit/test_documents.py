"""Sequences of several documents: each is attended to as if it were there by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.data.documents import Documents, squared_lengths
from hpcpar.nn import Arena, Flat, gpt
from hpcpar.nn.attention import Attention
from hpcpar.nn.documents import document_starts, model_within
from hpcpar.nn.ops import attention, score_blocks
from hpcpar.parallel.recompute import recomputed

random = np.random.default_rng(4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 80), st.integers(1, 80))
def test_the_documents_of_a_window(lengths, start, width):
    total = sum(lengths)
    start, plain = start % total, np.repeat(np.arange(len(lengths)), lengths)
    width = min(width, total - start)
    documents = Documents(np.cumsum(lengths) - lengths, total)
    assert documents.lengths.tolist() == lengths and len(documents) == len(lengths)
    found = np.empty((1, width), np.int32)
    documents.number(start, found[0])
    assert found[0].tolist() == plain[start : start + width].tolist()
    pieces = np.unique(found, return_counts=True)[1]
    assert squared_lengths(np.repeat(found, 2, axis=0)).tolist() == [(pieces**2).sum()] * 2
    first = [int(np.argmax(found[0] == number)) for number in found[0]]
    assert document_starts(found).tolist() == [first]


LAYOUTS = {  # lengths of the documents of two sequences
    "short and long": [[1, 6, 2, 4], [3, 10]],
    "one token each": [[1] * 13, [13]],
    "at the edges of tiles": [[3, 6, 3, 1], [9, 4]],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])  # of the scores of one head; some overflow
@pytest.mark.parametrize("tile", [3, 64, None])
def test_attention_is_that_of_each_document_by_itself(monkeypatch, name, size, tile):
    if tile is None:  # as on a GPU: all sequences and all rows at once
        library = SimpleNamespace(**{name: getattr(np, name) for name in dir(np)})
        for module in (score_blocks, attention):
            monkeypatch.setattr(module, "namespace", lambda array: library)
    monkeypatch.setattr(score_blocks, "TILE", tile)
    heads, width, length = 2, 4, 13
    qkv = random.standard_normal((2, length, 3, heads, width))
    qkv[:, :, :2, 1] *= size
    qkv, bias = qkv.reshape(2, length, -1), random.standard_normal(3 * heads * width)
    dout = random.standard_normal((2, length, heads * width))

    def run(layer, part, gradient):
        arena = Arena()
        kept = layer.forward(arena.copy(part), bias, arena)
        out, d = kept.out.copy(), np.full_like(part, np.nan)
        layer.backward(gradient.copy(), kept, d, arena)
        arena.give(kept)
        assert arena.lent == 0
        return out, d

    numbers = np.array([np.repeat(np.arange(len(row)), row) for row in LAYOUTS[name]])
    found = run(Attention(heads).within(document_starts(numbers)), qkv, dout)
    for sequence, row in enumerate(LAYOUTS[name]):
        for stop, count in zip(np.cumsum(row), row, strict=True):
            at = slice(sequence, sequence + 1), slice(stop - count, stop)
            for packed, alone in zip(found, run(Attention(heads), qkv[at], dout[at]), strict=True):
                near = 1e-12 * max(np.abs(alone).max(), 1) * size
                np.testing.assert_allclose(packed[at], alone, rtol=1e-9, atol=near)


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_the_sum_over_documents(recompute):
    """Of each by itself, at its places: their embeddings go with the document."""
    model = gpt(layers=2, heads=2, width=8, context=12, vocabulary=11)
    flat, arena = Flat(model.parameters, np, np.float64), Arena()
    weights, packed = flat.empty(), flat.empty_gradients()
    flat.initialize(weights, seed=1)
    weights += 0.3 * random.standard_normal(weights.shape)
    tokens, targets = random.integers(0, 11, (2, 1, 12))
    lengths = [5, 1, 4, 2]
    numbers = np.repeat([7, 9, 12, 13], lengths)[None]
    within = model_within(recomputed(model) if recompute else model, document_starts(numbers))
    p, scale = flat.params_views(weights), 0.37
    args = tokens, targets, scale, arena
    loss = within.loss_and_gradients(p, flat.gradient_views(packed), *args)
    assert arena.lent == 0
    total, alone, sums = 0.0, flat.empty_gradients(), np.zeros_like(packed)
    name = "transformer.wpe.weight"
    for stop, count in zip(np.cumsum(lengths), lengths, strict=True):
        at = slice(stop - count, stop)
        moved = p | {name: np.roll(p[name], count - stop, axis=0)}
        g = flat.gradient_views(alone)
        args = tokens[:, at], targets[:, at], scale, arena
        total += model.loss_and_gradients(moved, g, *args)
        g[name][...] = np.roll(g[name], stop - count, axis=0)
        sums += alone
    assert loss == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(packed, sums, rtol=1e-9, atol=1e-12)
    assert np.abs(packed - unmasked(model, p, flat, tokens, targets)).max() > 1e-3


def unmasked(model, p, flat, tokens, targets):
    whole = flat.empty_gradients()
    model.loss_and_gradients(p, flat.gradient_views(whole), tokens, targets, 0.37, Arena())
    return whole


def test_a_token_changes_no_logit_of_another_document():
    model = gpt(layers=2, heads=2, width=8, context=9, vocabulary=11)
    flat, arena = Flat(model.parameters, np), Arena()
    weights, x = flat.empty(), random.integers(0, 11, (1, 9))
    flat.initialize(weights, seed=1)
    p = flat.params_views(weights)
    within = model_within(model, document_starts(np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2]])))
    before = within.logits(p, x, arena).copy()
    x[0, 4] = (x[0, 4] + 1) % 11
    changed = (within.logits(p, x, arena) != before).any(axis=-1)[0]
    assert changed.tolist() == [False] * 4 + [True] * 3 + [False] * 2
