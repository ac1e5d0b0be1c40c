"""Sequences whose positions ranks share: the plain model's numbers, with tiles one rank's bits."""

from collections.abc import Iterator

import numpy as np
import pytest
from micro_step import Step

from hpcpar.comm import Communicator
from hpcpar.nn import gpt
from hpcpar.nn.ops import blocks, score_blocks
from hpcpar.parallel.context import start_context_sum
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.tree import tree_total

pytestmark = pytest.mark.mpi

TILES = 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several tiles of scores, and several blocks of rows."""
    monkeypatch.setattr(score_blocks, "TILE", 3)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)


@pytest.fixture(scope="module")
def group(comm: Communicator) -> Iterator[Communicator | None]:
    """Two, four or eight ranks; None for one that is left."""
    size = 1 << comm.size.bit_length() - 1
    part = comm.split(comm.rank // size)
    assert part is not None
    with part:
        yield part if part.size > 1 else None


def model():
    return gpt(layers=2, heads=4, width=16, context=16, vocabulary=31)


def samples() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(5).integers(0, 31, (3, 17))
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def summed(step: Step, group: Communicator | None) -> Step:
    """With the loss and the gradients of all positions."""
    if group is not None:
        for array in step.gradients.values():
            whole = array.copy()
            start_context_sum(group, whole).wait()
            array[...] = whole
        step.loss, step.value = (
            tree_total(group.allgather(np.array([loss]))) for loss in (step.loss, step.value)
        )
    return step


@pytest.mark.parametrize("scores", [1, 300])  # 300: exponentials overflow unless they are shifted
def test_the_plain_models_loss_and_gradients(group, scores):
    plain = Step(model(), *samples(), scores)
    shared = tensor_parallel(model(), None, None, positions=group)
    step = summed(Step(shared, *samples(), scores), group)
    assert step.loss == pytest.approx(plain.loss, rel=1e-5)
    assert step.value == pytest.approx(plain.loss, rel=1e-5)
    for key, whole in plain.gradients.items():
        near = 3e-5 * scores * np.abs(whole).max()
        np.testing.assert_allclose(step.gradients[key], whole, rtol=0, atol=near, err_msg=key)


@pytest.mark.parametrize("scores", [1, 300])
def test_with_tiles_the_bits_of_one_rank(group, scores):
    alone = Step(tensor_parallel(model(), None, TILES), *samples(), scores)
    shared = tensor_parallel(model(), None, TILES, positions=group)
    step = summed(Step(shared, *samples(), scores), group)
    assert (step.loss, step.value) == (alone.loss, alone.value)
    for key, whole in alone.gradients.items():
        assert step.gradients[key].tobytes() == whole.tobytes(), key


def test_what_cannot_be_shared(group):
    if group is None:
        return
    with pytest.raises(ValueError, match="cut into 15 spans"):
        tensor_parallel(gpt(1, 2, 8, 15, 11), None, 15, positions=group)
    with pytest.raises(ValueError, match="cut evenly"):
        tensor_parallel(gpt(1, 2, 8, 15, 11), None, None, positions=group)
