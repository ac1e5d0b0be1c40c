"""A layout that is chosen, and ranks that are not equally fast: the bits are the same."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_models import small_model

import hpcpar
from hpcpar.device import Device
from hpcpar.errors import UserError
from hpcpar.fingerprint import weights_sha256
from hpcpar.nn import gpt
from hpcpar.optim import OptimConfig, clip_scale
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.choose import choose
from hpcpar.parallel.figures import measure_figures
from hpcpar.parallel.plan import plan_layouts
from hpcpar.parallel.state import collect, compare_copies

pytestmark = pytest.mark.mpi

BATCH = BatchConfig(size=24, micro=2, leaves=6)


def trained(comm, parallel, reproducible="ranks"):
    """Losses, norms and the hash of the weights after two steps; and the model's place."""
    plain, part = small_model("gpt")
    mesh = hpcpar.Mesh(comm, **parallel.sizes(comm.size))
    model = parallelize(plain, mesh, parallel, BATCH, reproducible=reproducible)
    model.initialize(3)
    told = []
    for step in range(2):
        told.append(model.loss_and_gradients(part, (np.arange(BATCH.size) * 7 + step) % 64))
        told.append(model.update.norm())
        model.update.step(1e-2, clip_scale(told[-1], 0.5))
    told.append(model.evaluate(part, np.arange(17)))
    compare_copies(model)
    weights = collect(model)
    mesh.close()
    digest = "" if weights is None else weights_sha256(weights)
    work = sum(slot.micro >= 0 for slot in model._slots)
    layers = [len(run) for run in model.holdings.every]
    return SimpleNamespace(told=told, digest=digest, work=work, layers=layers)


@pytest.fixture(scope="module")
def alone(comm):
    part = comm.split(comm.rank)
    yield trained(part, ParallelConfig(zero=0))
    part.close()


@pytest.mark.parametrize("zero", range(4))
def test_speeds_change_no_bits(comm, alone, zero):
    """The work goes where the speed is."""
    speeds = tuple(1.0 if rank % 2 else 3.0 for rank in range(comm.size))
    for pipeline in {1, 2 if comm.size % 2 == 0 else 1}:
        found = trained(comm, ParallelConfig(pipeline=pipeline, zero=zero, speeds=speeds))
        assert found.told == alone.told
        assert found.digest in ("", alone.digest)
        work = comm.allgather(np.array([found.work]))
        if pipeline == 1 and zero < 2 and comm.size == 2:
            assert work.tolist() == [8, 4] or work.tolist() == [10, 2], "4.5 and 1.5 leaves"
        if pipeline == 2:
            assert found.layers[0] > found.layers[1]


def test_a_chosen_layout_has_the_same_bits(comm, alone):
    plain, _ = small_model("gpt")
    parallel, words = choose(plain, comm, ParallelConfig(plan="auto"), BATCH, OptimConfig())
    assert words.startswith(f"plan: data {parallel.data} x pipeline {parallel.pipeline}")
    assert "s a step" in words and "predicted" in words
    assert parallel.sizes(comm.size) and not parallel.plan
    chosen = comm.allgather(np.array([parallel.data, parallel.pipeline, parallel.zero]))
    assert (chosen.reshape(comm.size, 3) == chosen[:3]).all(), "one choice for all"
    found = trained(comm, parallel)
    assert found.told == alone.told
    assert found.digest in ("", alone.digest)


def test_with_tiles_all_axes_are_chosen_from(comm):
    plain, _ = small_model("gpt")
    asked = ParallelConfig(plan="auto", tiles=2)
    parallel, _ = choose(plain, comm, asked, BATCH, OptimConfig(), "layout")
    assert parallel.tiles == 2
    part = comm.split(comm.rank)
    one = trained(part, ParallelConfig(tiles=2), "layout")
    part.close()
    found = trained(comm, parallel, "layout")
    assert found.told == one.told
    assert found.digest in ("", one.digest)


def test_other_bits_only_where_nothing_else_fits(comm, monkeypatch):
    plain = gpt(layers=1, heads=8, width=32, context=16, vocabulary=64)
    figures = measure_figures(plain, BATCH.micro, OptimConfig(), comm)
    given = {"tensor": 1, "context": 1}
    kept = plan_layouts(plain, BATCH, OptimConfig(), comm.size, figures, given)
    limit = min(plan.bytes.total for plan in kept) - 1
    monkeypatch.setattr(Device, "free_bytes", lambda _: limit * comm.local_size)
    if comm.size == 1:
        with pytest.raises(UserError, match="no layout fits"):
            choose(plain, comm, ParallelConfig(plan="auto"), BATCH, OptimConfig())
        return
    parallel, words = choose(plain, comm, ParallelConfig(plan="auto"), BATCH, OptimConfig())
    assert parallel.tensor > 1
    assert "which alone keep the bits" in words


def test_without_a_plan_nothing_is_measured(comm, monkeypatch):
    monkeypatch.setattr("hpcpar.parallel.choose.measure_figures", None)
    plain, asked = small_model("gpt")[0], ParallelConfig(zero=2)
    assert choose(plain, comm, asked, BATCH, OptimConfig()) == (asked, "")


def test_too_little_memory_is_said_by_all(comm, monkeypatch):
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(Device, "free_bytes", lambda _: 1000 * comm.local_size)
    plain, _ = small_model("gpt")
    with pytest.raises(UserError, match=r"no layout fits into 1.0 KB a rank: .* are missing for"):
        choose(plain, comm, ParallelConfig(plan="auto"), BATCH, OptimConfig())


def test_speeds_of_a_wrong_number_are_said_by_all(comm):
    plain, _ = small_model("gpt")
    wrong = ParallelConfig(plan="auto", speeds=(1.0,) * (comm.size + 1))
    with pytest.raises(UserError, match=f"{comm.size + 1} numbers for {comm.size} ranks"):
        choose(plain, comm, wrong, BATCH, OptimConfig())
