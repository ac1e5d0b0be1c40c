"""Optimizers against a few lines of float64 and against PyTorch; norm, clipping, schedules."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.nn import Parameter
from hpcpar.optim import (
    OptimConfig,
    clip_scale,
    exact_parts,
    learning_rate,
    make_optimizer,
    norm_of,
    optimizers,
    square_sums,
)
from hpcpar.optim.norm import NORM_BLOCK

random = np.random.default_rng(0)
PARAMETERS = [
    Parameter("w", (5, 7)),
    Parameter("b", (7,)),
    Parameter("w again", (5, 7), tied_to="w"),
]
NAMES = ["w", "b"]
BETAS = (0.8, 0.95)


def draw(dtype=np.float32):
    return {p.name: random.standard_normal(p.shape).astype(dtype) for p in PARAMETERS[:2]}


def reference(name, w, gradients, decay, rates, betas=BETAS):
    """The textbook's formulas, one step after the other, in float64."""
    w = w.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (gradient, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = gradient.astype(np.float64)
        if name == "adamw":
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            step = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
            w = w - lr * decay * w - lr * step
        else:
            m = (betas[0] * m if name == "momentum" else 0) + g + decay * w
            w = w - lr * m
    return w


@pytest.mark.parametrize("block", [4, 1 << 15])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_against_the_formulas(name, block, monkeypatch):
    monkeypatch.setattr(optimizers, "BLOCK", block)
    params, scale = draw(), 0.5
    start = {n: a.copy() for n, a in params.items()}
    gradients, rates = [draw() for _ in range(6)], [0.1, 0.2, 0.1, 0.05, 0.3, 0.1]
    optimizer = make_optimizer(
        OptimConfig(name=name, betas=BETAS, weight_decay=0.1), PARAMETERS, np
    )
    for g, lr in zip(gradients, rates, strict=True):
        kept = {n: a.copy() for n, a in g.items()}
        optimizer.update(params, g, lr, scale)
        assert all((g[n] == kept[n]).all() for n in NAMES)
    assert optimizer.steps == 6
    for n, decay in (("w", 0.1), ("b", 0.0)):  # biases do not decay
        expected = reference(name, start[n], [scale * g[n] for g in gradients], decay, rates)
        np.testing.assert_allclose(params[n], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_cutting_the_weights_changes_no_bit(name):
    """Rows dealt to two ranks give what one rank gives."""
    whole, gradient = random.standard_normal((2, 6, 50)).astype(np.float32)
    halves = [whole[:2].copy(), whole[2:].copy()]
    config = OptimConfig(name=name)
    one = make_optimizer(config, [Parameter("w", (6, 50))], np)
    two = [make_optimizer(config, [Parameter("w", half.shape)], np) for half in halves]
    for _ in range(3):
        one.update({"w": whole}, {"w": gradient}, 0.1, 0.7)
        for optimizer, half, g in zip(two, halves, (gradient[:2], gradient[2:]), strict=True):
            optimizer.update({"w": half}, {"w": g}, 0.1, 0.7)
    np.testing.assert_array_equal(whole, np.concatenate(halves))


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_state_is_all_there_is_to_save(name):
    params, config = draw(), OptimConfig(name=name)
    gradients = [draw() for _ in range(4)]
    optimizer = make_optimizer(config, PARAMETERS, np)
    assert all(set(tensors) == set(NAMES) for tensors in optimizer.state.values())
    for g in gradients[:2]:
        optimizer.update(params, g, 0.1)
    resumed, other = (
        make_optimizer(config, PARAMETERS, np),
        {n: a.copy() for n, a in params.items()},
    )
    resumed.steps = optimizer.steps
    for kind, tensors in optimizer.state.items():
        for n, array in tensors.items():
            resumed.state[kind][n][...] = array
    for g in gradients[2:]:
        optimizer.update(params, g, 0.1)
        resumed.update(other, g, 0.1)
    for n in NAMES:
        np.testing.assert_array_equal(params[n], other[n])


@pytest.mark.peers
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_against_pytorch(name):
    torch = pytest.importorskip("torch")
    params = draw()
    theirs = {n: torch.nn.Parameter(torch.from_numpy(params[n].copy())) for n in NAMES}
    groups = [
        {"params": [theirs["w"]], "weight_decay": 0.1},
        {"params": [theirs["b"]], "weight_decay": 0.0},
    ]
    if name == "adamw":
        peer = torch.optim.AdamW(groups, lr=0.1, betas=BETAS)
    else:
        peer = torch.optim.SGD(groups, lr=0.1, momentum=0.8 if name == "momentum" else 0)
    ours = make_optimizer(OptimConfig(name=name, betas=BETAS, weight_decay=0.1), PARAMETERS, np)
    for _ in range(10):
        g = draw()
        ours.update(params, g, 0.1, scale=0.5)
        for n in NAMES:
            theirs[n].grad = torch.from_numpy(g[n] * np.float32(0.5))
        peer.step()
    for n in NAMES:
        np.testing.assert_allclose(params[n], theirs[n].detach().numpy(), rtol=1e-4, atol=1e-6)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="'lion'; it must be one of sgd, momentum, adamw"):
        make_optimizer(OptimConfig(name="lion"), PARAMETERS, np)  # type: ignore[arg-type]


def norm_over(gradients):
    """As training computes it."""
    return norm_of(exact_parts([s for gradient in gradients for s in square_sums(gradient)]))


@given(st.permutations(range(6)), st.integers(0, 2**32 - 1))
def test_norm_is_the_same_in_any_order(order, seed):
    rng = np.random.default_rng(seed)
    sizes = [1, 10, NORM_BLOCK - 1, NORM_BLOCK, NORM_BLOCK + 1, 11 * NORM_BLOCK + 5]
    gradients = {
        str(i): (rng.standard_normal(n) * 10.0**i).astype("f4") for i, n in enumerate(sizes)
    }
    norm = norm_over(gradients.values())
    assert norm == norm_over(gradients[str(i)] for i in order)
    flat = np.concatenate(list(gradients.values())).astype(np.float64)
    assert norm == pytest.approx(np.linalg.norm(flat), rel=1e-12)


def test_norm_of_blocks_computed_elsewhere():
    """Ranks that share a parameter at block borders have its sums between them."""
    gradient = random.standard_normal(20 * NORM_BLOCK + 3).astype(np.float32)
    cut = 7 * NORM_BLOCK
    assert square_sums(gradient) == square_sums(gradient[:cut]) + square_sums(gradient[cut:])
    assert len(square_sums(gradient)) == 21


def test_norm_of_bad_gradients():
    good, infinite, bad = (
        np.array(values, np.float32) for values in ([3, 4], [np.inf, 1], [np.nan])
    )
    assert norm_over([good]) == 5
    assert norm_over([good, infinite]) == math.inf
    assert math.isnan(norm_over([good, infinite, bad]))


def test_clip():
    assert clip_scale(4.0, 1.0) == 0.25
    assert clip_scale(0.5, 1.0) == 1.0
    assert clip_scale(4.0, 0.0) == 1.0


def test_warmup_and_cosine():
    config = OptimConfig(lr=2.0, warmup=4, schedule="cosine")
    rates = [learning_rate(config, step, 105) for step in range(105)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[54] == pytest.approx(1.1)  # half way: the middle of lr and a tenth of it
    assert rates[104] == pytest.approx(0.2)
    assert all(after < before for before, after in pairwise(rates[4:]))
    assert learning_rate(config, 500, 105) == pytest.approx(0.2)


def test_constant_and_runs_shorter_than_the_warmup():
    assert learning_rate(OptimConfig(lr=2.0, warmup=0, schedule="constant"), 0, 10) == 2.0
    assert learning_rate(OptimConfig(lr=2.0, warmup=100), 9, 10) == pytest.approx(0.2)
    assert learning_rate(OptimConfig(lr=2.0, warmup=0), 0, 1) == 2.0
