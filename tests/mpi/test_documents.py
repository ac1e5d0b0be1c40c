"""Samples of several documents on any layout of ranks: the bits of one rank."""

import numpy as np
import pytest
from long import only_on
from small_models import Tokens, small_model

import hpcpar
from hpcpar.fingerprint import weights_sha256
from hpcpar.nn.ops import score_blocks
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.state import collect

pytestmark = pytest.mark.mpi

BATCH = BatchConfig(size=12, micro=2, leaves=4)


class Documents(Tokens):
    """Random tokens of documents that are a few tokens long."""

    def documents(self, indices):
        begins = np.random.default_rng(7).random((64, 8)) < 0.3
        return np.cumsum(begins, axis=1, dtype=np.int32)[indices]


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """Several of them in a sequence, so that some are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_blocks, "TILE", 2)
        yield


def result(comm, layout, reproducible="ranks", part=None):
    """Losses, the validation loss, the hash on rank 0."""
    part = part or Documents()
    mesh = hpcpar.Mesh(comm, **layout.sizes(comm.size))
    plain, _ = small_model("gpt", layers=3)
    model = parallelize(plain, mesh, layout, BATCH, reproducible=reproducible)
    model.initialize(3)
    told = []
    for step in range(2):
        told.append(model.loss_and_gradients(part, (np.arange(BATCH.size) * 7 + step) % 64))
        model.update.step(1e-2, 1.0)
    told.append(model.evaluate(part, np.arange(7)))
    weights = collect(model)
    mesh.close()
    return told, None if weights is None else weights_sha256(weights)


@pytest.fixture(scope="module")
def alone(comm):
    """What a rank by itself does, under "ranks" and under "layout"; and without documents."""
    one = comm.split(comm.rank)
    layout = ParallelConfig(data=1, zero=0)
    with one:
        found = {order: result(one, layout, order) for order in ("ranks", "layout")}
        found["whole"] = result(one, layout, part=Tokens())
    return found


def layouts(size):
    """Of data and pipeline ranks, with each way to share and to come back to a micro-batch."""
    stages = next(n for n in (4, 2, 3, 1) if size % n == 0)
    return [
        ParallelConfig(zero=3, recompute=True),
        ParallelConfig(pipeline=stages, schedule="zero-bubble", zero=1),
        ParallelConfig(pipeline=stages, schedule="1f1b", zero=2, recompute=True),
    ]


@pytest.mark.parametrize("number", range(3))
def test_data_and_pipeline_ranks(comm, alone, number):
    if number:
        only_on(comm.size, 1, 2, 3, 4)
    told, sha256 = result(comm, layouts(comm.size)[number])
    assert told == alone["ranks"][0] != alone["whole"][0]
    assert sha256 in (None, alone["ranks"][1])


def test_shared_layers_and_positions(comm, alone):
    """Tensor and context ranks, under "layout"."""
    context = 2 if comm.size % 2 == 0 else 1
    tensor = next(n for n in (4, 3, 2, 1) if comm.size // context % n == 0)
    layout = ParallelConfig(context=context, tensor=tensor, sequence=context * tensor <= 4)
    told, sha256 = result(comm, layout, "layout")
    assert told == alone["layout"][0] and sha256 in (None, alone["layout"][1])
    assert told == pytest.approx(alone["ranks"][0], rel=1e-5)


def test_shared_positions_without_tiles(comm, alone):
    """Keys and values go round; each rank looks documents up by itself."""
    if comm.size not in (2, 4, 8):
        pytest.skip("8 positions are not shared by so many ranks")
    only_on(comm.size, 2, 4)
    told, _ = result(comm, ParallelConfig(context=min(comm.size, 4)))
    assert told == pytest.approx(alone["ranks"][0], rel=1e-5)
