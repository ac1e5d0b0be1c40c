"""Gradients written by hand against finite differences, in float64."""

import warnings

import numpy as np
import pytest
from micro_step import in_halves

from hpcpar.nn import Arena, Flat, Model, Parameter, gpt, linear, mlp
from hpcpar.nn.block import Block
from hpcpar.nn.dense import Dense
from hpcpar.nn.documents import document_starts, model_within
from hpcpar.nn.embedding import Embedding
from hpcpar.nn.head import Head
from hpcpar.nn.ops import attention, blocks, score_blocks

random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several blocks and tiles, the last one ragged, at the sizes of a test."""
    monkeypatch.setattr(score_blocks, "TILE", 3)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 24)


class Weighted:
    """A loss that tests one layer: a fixed random weighting of its outputs."""

    def __init__(self, shape):
        self.weights = random.standard_normal(shape)

    def value(self, outputs, targets, arena):
        return float((outputs * self.weights).sum())

    def value_and_gradient(self, outputs, targets, scale, arena):
        loss = self.value(outputs, targets, arena)
        outputs[...] = scale * self.weights
        return loss, outputs


class Source:
    """A first layer whose parameter is its output: shows the gradient of the next layer's input."""

    def __init__(self, shape):
        self.parameters = [Parameter("x", shape, "normal", 1.0)]

    def forward(self, p, x, arena):
        arena.give(x)
        return arena.copy(p["x"]), ()

    def backward(self, p, g, dy, saved, arena):
        g["x"][...] = dy
        arena.give(dy)


def check(model, inputs, targets, elements=12):
    """Compare up to `elements` random elements of each gradient with central differences."""
    flat, arena = Flat(model.parameters, np, np.float64), Arena()
    weights, gradients = flat.empty(), flat.empty_gradients()
    flat.initialize(weights, seed=1)
    weights += 0.1 * random.standard_normal(weights.shape)  # biases and norms are ordinary too
    gradients.fill(np.nan)  # every element must be written
    p, g = flat.params_views(weights), flat.gradient_views(gradients)
    scale, h = 0.37, 1e-5
    loss = model.loss_and_gradients(p, g, inputs, targets, scale, arena)
    assert loss == pytest.approx(model.loss(p, inputs, targets, arena), rel=1e-12)
    assert arena.lent == 0
    flat.fold(g)
    for name in flat.names:
        w, d = p[name].reshape(-1), g[name].reshape(-1)
        for i in random.choice(w.size, min(elements, w.size), replace=False):
            was = w[i]
            w[i] = was + h
            above = model.loss(p, inputs, targets, arena)
            w[i] = was - h
            below = model.loss(p, inputs, targets, arena)
            w[i] = was
            numeric = scale * (above - below) / (2 * h)
            assert d[i] == pytest.approx(numeric, rel=1e-6, abs=1e-8), f"{name}[{i}]"


def tokens(*shape, vocabulary=11):
    return random.integers(0, vocabulary, shape)


def test_embedding():
    model = Model([Embedding("", 11, 9, 4)], Weighted((2, 7, 4)), 0)  # shorter than its context
    check(model, tokens(2, 7), None, elements=50)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_block(heads):
    model = Model([Source((2, 7, 8)), Block("", 8, heads, 1)], Weighted((2, 7, 8)), 0)
    check(model, np.zeros(1), None)


def plain_attention(q, k, v):
    """The textbook's: softmax(q k^T / sqrt(width)) v for one head, (T, width) each."""
    scores = q @ k.T / np.sqrt(q.shape[1])
    scores[np.triu_indices(len(q), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v


@pytest.mark.parametrize(("size", "shifted"), [(1.0, False), (30.0, True), (1000.0, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_against_the_plain_one(size, shifted, dtype):
    """With ordinary scores, and with some whose exponentials overflow unless they are shifted."""
    batch, length, heads, width = 2, 7, 2, 4
    qkv = random.standard_normal((batch, length, 3, heads, width)).astype(dtype)
    bias = random.standard_normal(3 * heads * width).astype(dtype)
    qkv[0, :, :2] *= size  # the other sequence stays ordinary
    out = np.empty((batch, length, heads * width), dtype)
    scores = np.empty((batch, heads, length, length), dtype)
    inverse = np.empty((batch, heads, length, 1), dtype)
    flat = qkv.reshape(batch, length, -1) - bias  # to which it is added again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention.forward(flat, bias, heads, out, scores, inverse, Arena())
    for b in range(batch):
        for h in range(heads):
            q, k, v = (qkv[b, :, i, h].astype(np.float64) for i in range(3))
            np.testing.assert_allclose(
                out.reshape(batch, length, heads, width)[b, :, h],
                plain_attention(q, k, v),
                rtol=2e-3 if size > 1 else 1e-5,
                atol=2e-3 if size > 1 else 1e-6,
            )
    # with the shift, the first position's one score becomes exp(0)
    assert bool((scores[0, :, 0, 0] == 1).all()) == shifted
    assert (scores[1, :, 0, 0] != 1).all()


def test_head():
    head = Head("", 6, 11)
    model = Model([Embedding("", 11, 7, 6), head], Weighted((2, 7, 11)), 0)
    check(model, tokens(2, 7), None)


@pytest.mark.parametrize("activation", [False, True])
def test_dense(activation):
    model = Model(
        [Source((5, 6)), Dense("dense", 6, 7, std=1.0, activation=activation)], Weighted((5, 7)), 0
    )
    check(model, np.zeros(1), None)


def test_gpt():
    model = gpt(layers=2, heads=2, width=8, context=9, vocabulary=11)
    check(model, tokens(3, 9), tokens(3, 9))


@pytest.mark.parametrize(
    "make", [linear, lambda f, o, t: mlp(f, o, 8, 2, t)], ids=["linear", "mlp"]
)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_tables(make, task):
    inputs = random.standard_normal((6, 5))
    targets = random.standard_normal((6, 3)) if task == "regression" else tokens(6, vocabulary=3)
    check(make(5, 3, task), inputs, targets)


def test_mlp_without_hidden_layers_is_linear():
    assert [p.shape for p in mlp(5, 3, 8, 0, "regression").parameters] == [(5, 3), (3,)]


def test_gpt_within_documents():
    model = gpt(layers=2, heads=2, width=8, context=9, vocabulary=11)
    starts = document_starts(np.array([[4, 4, 5, 5, 5, 5, 6, 7, 7], [0] * 9, [*range(9)]]))
    check(model_within(model, starts), tokens(3, 9), tokens(3, 9))


def test_causal():
    """A token changes no logit before it."""
    model = gpt(layers=2, heads=2, width=8, context=9, vocabulary=11)
    flat, arena = Flat(model.parameters, np, np.float64), Arena()
    weights = flat.empty()
    flat.initialize(weights, seed=1)
    p, x = flat.params_views(weights), tokens(1, 9)
    before = model.logits(p, x, arena).copy()
    x[0, 5] = (x[0, 5] + 1) % 11
    after = model.logits(p, x, arena)
    assert (before[0, :5] == after[0, :5]).all()
    assert (before[0, 5:] != after[0, 5:]).any(axis=-1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gpt(1, 3, 8, 9, 11), "multiple of the 3 heads"),
        (lambda: linear(3, 2, "ranking"), "task is 'ranking'"),  # type: ignore[arg-type]
        (lambda: run(gpt(1, 2, 8, 9, 11), tokens(1, 10)), "10 tokens, the model's context 9"),
        (lambda: run(gpt(1, 2, 8, 9, 11), np.array([[0, 11]])), "from 0 to 11"),
        (lambda: run(gpt(1, 2, 8, 9, 11), np.array([[-1, 2]])), "from -1 to 2"),
        (lambda: run(linear(3, 2, "regression"), np.zeros((4, 5))), r"inputs \(B, 3\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def run(model, inputs):
    flat = Flat(model.parameters, np)
    return model.logits(flat.params_views(np.zeros(flat.size, np.float32)), inputs, Arena())


def test_regression_targets_of_another_shape():
    model = linear(3, 2, "regression")
    flat = Flat(model.parameters, np)
    p = flat.params_views(np.zeros(flat.size, np.float32))
    with pytest.raises(ValueError, match=r"targets are \(4,\)"):
        model.loss(p, np.zeros((4, 3), np.float32), np.zeros(4, np.float32), Arena())


def test_flops_of_the_matrix_products():
    context, width, layers, vocabulary = 4, 8, 3, 11
    seen = sum(range(1, context + 1))  # pairs of positions under the causal mask
    forward = layers * (context * 12 * width**2 + 2 * seen * width) + context * width * vocabulary
    assert gpt(layers, 2, width, context, vocabulary).flops_per_sample == 3 * 2 * forward


@pytest.mark.parametrize("kind", ["gpt", "mlp", "linear"])
def test_backward_in_two_halves(kind):
    """First the inputs' gradients of all layers, then the weights': the bits of `backward`."""
    random = np.random.default_rng(5)
    if kind == "gpt":
        model = gpt(layers=2, heads=2, width=12, context=6, vocabulary=11)
        inputs, targets = (random.integers(0, 11, (3, 6)) for _ in range(2))
    else:
        model = mlp(7, 4, 9, 2, "classification") if kind == "mlp" else linear(7, 4, "regression")
        inputs = random.standard_normal((5, 7)).astype("f4")
        targets = random.integers(0, 4, 5) if kind == "mlp" else inputs[:, :4].copy()
    flat, arena = Flat(model.parameters, np), Arena()
    weights, whole, halves = flat.empty(), flat.empty_gradients(), flat.empty_gradients()
    flat.initialize(weights, 1)
    weights += random.standard_normal(len(weights)).astype("f4") / 10
    p, g = flat.params_views(weights), flat.gradient_views(halves)
    model.loss_and_gradients(p, flat.gradient_views(whole), inputs, targets, 0.25, arena)
    in_halves(model, p, g, inputs, targets, arena, 0.25)
    assert whole.tobytes() == halves.tobytes()
