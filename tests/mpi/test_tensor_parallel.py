"""Layers that ranks share: the plain model's numbers, and with tiles the same bits on any ranks."""

from collections.abc import Iterator

import numpy as np
import pytest
from micro_step import Step

from hpcpar.comm import Communicator
from hpcpar.nn import Model, gpt, linear, mlp
from hpcpar.nn.ops import blocks, score_blocks
from hpcpar.parallel.tensor import tensor_parallel


def samples(model: Model) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    if "lm_head.weight" in [p.name for p in model.parameters]:
        tokens = random.integers(0, 61, (3, 17))
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    (features, _), outputs = model.parameters[0].shape, model.parameters[-1].shape[0]
    table = random.standard_normal((6, features)).astype(np.float32)
    if outputs == 1:
        return table, random.standard_normal((6, 1)).astype(np.float32)
    return table, random.integers(0, outputs, 6)


MODELS = {
    "gpt": lambda: gpt(layers=2, heads=8, width=32, context=16, vocabulary=61),
    "uneven gpt": lambda: gpt(layers=1, heads=9, width=36, context=16, vocabulary=61),
    "linear": lambda: linear(13, 5, "classification"),
    "least squares": lambda: linear(17, 1, "regression"),
    "mlp, one hidden layer": lambda: mlp(13, 5, 24, 1, "classification"),
    "mlp, two hidden layers": lambda: mlp(13, 5, 9, 2, "classification"),
    "mlp, three hidden layers": lambda: mlp(11, 5, 8, 3, "classification"),
}
CASES = [(name, False) for name in MODELS] + [("gpt", True), ("uneven gpt", True)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of rows, and more of them where there are more columns."""
    monkeypatch.setattr(score_blocks, "TILE", 5)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)


@pytest.fixture(scope="module")
def group(comm: Communicator) -> Iterator[Communicator]:
    """All ranks, or groups of at most as many as there are tiles."""
    part = comm.split(comm.rank // 8)
    assert part is not None
    with part:
        yield part


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "sequence"), CASES)
def test_the_plain_models_loss_and_gradients(group, name, sequence):
    model = MODELS[name]()
    plain = Step(model, *samples(model))
    step = Step(tensor_parallel(model, group, None, sequence), *samples(model))
    assert step.loss == pytest.approx(plain.loss, rel=1e-5)
    assert step.value == pytest.approx(plain.loss, rel=1e-5)
    for key, part in step.gradients.items():
        whole, cut = plain.gradients[key], step.cuts[key]
        expected = whole if cut is None else cut.take(whole)
        near = 2e-5 * np.abs(whole).max()
        np.testing.assert_allclose(part, expected, rtol=0, atol=near, err_msg=key)


def assert_same_bits(step: Step, alone: Step) -> None:
    assert step.loss == alone.loss
    assert step.value == alone.value
    for key, part in step.gradients.items():
        whole, cut = alone.gradients[key], step.cuts[key]
        expected = whole if cut is None else cut.take(whole)
        assert part.tobytes() == expected.tobytes(), key


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "sequence"), CASES)
def test_with_tiles_the_bits_of_one_rank(group, name, sequence):
    model = MODELS[name]()
    tiles = 11 if "uneven" in name or "two" in name else 8
    alone = Step(tensor_parallel(model, None, tiles), *samples(model))
    step = Step(tensor_parallel(model, group, tiles, sequence), *samples(model))
    assert_same_bits(step, alone)


@pytest.mark.mpi
def test_with_tiles_a_first_layer_may_be_given_its_own_inputs(group):
    model = MODELS["linear"]()
    inputs, targets = samples(model)
    shared = tensor_parallel(model, group, 8)
    tiles = shared.parameters[0].cut.runs
    run = range(tiles[0].start, tiles[-1].stop)
    own = np.ascontiguousarray(inputs[:, run.start : run.stop])
    alone = Step(tensor_parallel(model, None, 8), inputs, targets)
    assert_same_bits(Step(shared, own, targets), alone)


@pytest.mark.mpi(min_size=6)
@pytest.mark.parametrize("sequence", [False, True])
def test_with_tiles_the_bits_of_one_rank_in_groups_of_five(comm, sequence):
    """What five ranks have of eight tiles are not all subtrees."""
    model = MODELS["gpt"]()
    part = comm.split(comm.rank // 5)
    assert part is not None
    with part:
        step = Step(tensor_parallel(model, part, 8, sequence), *samples(model))
    assert_same_bits(step, Step(tensor_parallel(model, None, 8), *samples(model)))
