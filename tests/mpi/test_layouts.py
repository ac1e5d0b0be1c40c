"""One model on any layout of data and pipeline ranks: the same bits as on one rank."""

from itertools import product

import numpy as np
import pytest
from long import only_on
from small_models import small_model

import hpcpar
from hpcpar.device import Device
from hpcpar.errors import UserError
from hpcpar.fingerprint import weights_sha256
from hpcpar.optim import OptimConfig, clip_scale
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.memory import plan_bytes
from hpcpar.parallel.state import collect, collect_state, compare_copies, spread

pytestmark = pytest.mark.mpi

BATCH = BatchConfig(size=20, micro=2, leaves=4)  # leaves of 3, 3, 2 and 2 micro-batches
STEPS = 2
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")


@pytest.fixture(scope="module")
def build(comm):
    """Makes a model parallel; a mesh of each shape is made once."""
    meshes = {}

    def of(kind, parallel, batch=BATCH, optim=None, reproducible="ranks", among=comm):
        plain, part = small_model(kind)
        key = among.size, tuple(parallel.sizes(among.size).items())
        if key not in meshes:
            meshes[key] = hpcpar.Mesh(among, **parallel.sizes(among.size))
        model = parallelize(plain, meshes[key], parallel, batch, optim, reproducible)
        model.initialize(3)
        return model, part

    yield of
    for mesh in meshes.values():
        mesh.close()


def steps(model, part, count=STEPS, first=0, batch=BATCH):
    """Everything that a run tells: losses, norms."""
    told = []
    for step in range(first, first + count):
        loss = model.loss_and_gradients(part, (np.arange(batch.size) * 7 + step) % 64)
        norm = model.update.norm()
        model.update.step(1e-2 / (step + 1), clip_scale(norm, 0.5))
        told += [loss, norm]
    return told


def result(model, part):
    """Losses, norms, the validation loss, and the hash of weights and state on rank 0."""
    told = steps(model, part)
    told.append(model.evaluate(part, np.arange(17)))
    compare_copies(model)
    weights, state = collect(model), collect_state(model)
    if weights is None:
        return told, None
    hashes = {"weights": weights_sha256(weights)}
    return told, hashes | {kind: weights_sha256(tensors) for kind, tensors in state.items()}


@pytest.fixture(scope="module")
def alone(comm, build):
    """What one rank does, by kind of model and leaves: each rank for itself."""
    part_comm, known = comm.split(comm.rank), {}

    def of(kind, batch=BATCH, reproducible="ranks"):
        key = kind, batch.leaves, reproducible
        if key not in known:
            plain = ParallelConfig(data=1, zero=0)
            model, part = build(kind, plain, batch, reproducible=reproducible, among=part_comm)
            known[key] = result(model, part)
        return known[key]

    yield of
    part_comm.close()


def pipelines(comm):
    return [p for p in (1, 2, 3, 4, 8) if comm.size % p == 0]


@pytest.mark.parametrize(("schedule", "zero"), list(product(SCHEDULES, range(4))))
def test_same_bits_as_alone(comm, build, alone, schedule, zero):
    """Each number of stages with each schedule and each level of sharing, over all rank counts."""
    if SCHEDULES.index(schedule) != zero:
        only_on(comm.size, 1, 2, 4)
    number = SCHEDULES.index(schedule) + zero
    pipeline = pipelines(comm)[number % len(pipelines(comm))]
    if schedule == "interleaved":
        pipeline = min(pipeline, 4)  # as many stages as layers, then
    layout = ParallelConfig(
        pipeline=pipeline, schedule=schedule, zero=zero, recompute=number % 3 == 0
    )
    model, part = build("gpt", layout)
    told, hashes = result(model, part)
    expected, expected_hashes = alone("gpt")
    assert told == expected
    assert hashes in (None, expected_hashes)
    assert (hashes is None) == (comm.rank > 0)


@pytest.mark.parametrize(("leaves", "zero"), [(1, 3), (3, 0), (3, 2), (10, 1)])
def test_any_number_of_leaves(comm, build, alone, leaves, zero):
    """Also fewer than there are ranks, and a last round that is not full."""
    batch = BatchConfig(20, 2, leaves)
    model, part = build("gpt", ParallelConfig(zero=zero), batch)
    told, hashes = result(model, part)
    expected, expected_hashes = alone("gpt", batch)
    assert told == expected and hashes in (None, expected_hashes)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_tables(comm, build, alone, kind):
    for zero, pipeline in ((1, 1), (3, max(pipelines(comm)) if kind == "mlp" else 1)):
        layout = ParallelConfig(pipeline=min(pipeline, 4), zero=zero, schedule="zero-bubble")
        model, part = build(kind, layout)
        told, hashes = result(model, part)
        expected, expected_hashes = alone(kind)
        assert told == expected and hashes in (None, expected_hashes)


@pytest.mark.parametrize("number", range(4))
def test_tensor_ranks_too(comm, build, alone, number):
    """Under "layout", tensor-parallel ranks with all the rest: the bits of one rank with tiles."""
    if number in (1, 2):
        only_on(comm.size, 1, 2, 3, 4)
    tensor = max(size for size in (1, 2, 4) if comm.size % size == 0)
    if comm.size == 3:
        tensor = 3
    if number == 0 and tensor == 4:
        tensor = 2
    others = comm.size // tensor
    layout = ParallelConfig(
        tensor=tensor, sequence=number in (1, 2), zero=number, recompute=number == 2,
        pipeline=others if number % 2 else 1, schedule=SCHEDULES[number],
    )  # fmt: skip
    model, part = build("gpt", layout, reproducible="layout")
    told, hashes = result(model, part)
    expected, expected_hashes = alone("gpt", reproducible="layout")
    assert told == expected and hashes in (None, expected_hashes)


CONTEXTS = {  # context, tensor, pipeline, by the number of ranks
    2: [(2, 1, 1)],
    4: [(4, 1, 1), (2, 1, 2), (2, 2, 1)],
    8: [(4, 2, 1), (2, 2, 2), (2, 1, 1), (4, 1, 2)],
}


@pytest.mark.parametrize("number", range(4))
def test_context_ranks_too(comm, build, alone, number):
    """Under "layout", context-parallel ranks with all the rest: the bits of one rank with tiles."""
    if comm.size not in CONTEXTS:
        pytest.skip("no ranks for a context axis")
    if number > 1:
        only_on(comm.size, 2, 4)
    context, tensor, pipeline = CONTEXTS[comm.size][number % len(CONTEXTS[comm.size])]
    layout = ParallelConfig(
        context=context, tensor=tensor, pipeline=pipeline, zero=number, recompute=number == 1,
        sequence=context * tensor <= 4, schedule=SCHEDULES[number],
    )  # fmt: skip
    model, part = build("gpt", layout, reproducible="layout")
    told, hashes = result(model, part)
    expected, expected_hashes = alone("gpt", reproducible="layout")
    assert told == expected and hashes in (None, expected_hashes)


@pytest.mark.parametrize("zero", [1, 3])
def test_context_ranks_are_as_good(comm, build, alone, zero):
    """Without tiles: other bits, the same numbers."""
    if comm.size not in CONTEXTS:
        pytest.skip("no ranks for a context axis")
    if zero == 1:
        only_on(comm.size, 2, 4)
    model, part = build("gpt", ParallelConfig(context=min(comm.size, 4), zero=zero))
    told, _ = result(model, part)
    assert told == pytest.approx(alone("gpt")[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_tables_on_tensor_ranks(comm, build, alone, kind):
    tensor = next(size for size in (2, 3, 1) if comm.size % size == 0)
    model, part = build(kind, ParallelConfig(tensor=tensor), reproducible="layout")
    told, hashes = result(model, part)
    expected, expected_hashes = alone(kind, reproducible="layout")
    assert told == expected and hashes in (None, expected_hashes)


def test_off_is_as_good(comm, build, alone):
    model, part = build("gpt", ParallelConfig(), reproducible="off")
    told, _ = result(model, part)
    assert told == pytest.approx(alone("gpt")[0], rel=1e-5)


def test_tensor_ranks_are_as_good(comm, build, alone):
    """Without tiles: other bits, the same numbers."""
    tensor = 2 if comm.size % 2 == 0 else 1
    model, part = build("gpt", ParallelConfig(tensor=tensor), reproducible="ranks")
    told, _ = result(model, part)
    assert told == pytest.approx(alone("gpt")[0], rel=1e-5)


def test_a_layout_that_does_not_fit(comm, build, monkeypatch):
    """Said by all before a step: how much is missing, and what would fit."""
    plain, _ = build("gpt", ParallelConfig())
    needed = plain.comm.allreduce(np.array([float(sum_of(plain))]))[0]
    monkeypatch.setattr(Device, "free_bytes", lambda _: int(needed) - 1000)
    with pytest.raises(UserError, match=r"are missing: (data .* fits, with|no layout fits)"):
        build("gpt", ParallelConfig())
    monkeypatch.setattr(Device, "free_bytes", lambda _: None)  # nobody knows
    build("gpt", ParallelConfig())


def sum_of(model):
    """The bytes that a plan counts on, before a step."""
    layout = Layout(model.axes.parallel, BATCH, model.comm.size)
    return plan_bytes(
        model.model, layout, model.holdings.every, OptimConfig(), 0, model.axes.data_rank
    ).total


def test_from_any_layout_to_any_other(comm, build, alone):
    """What one layout has collected another goes on with."""
    first = ParallelConfig(pipeline=pipelines(comm)[-1], zero=3)
    second = ParallelConfig(pipeline=pipelines(comm)[len(pipelines(comm)) // 2], zero=0)
    one, part = build("gpt", first)
    told = steps(one, part, 1)
    weights, state = collect(one), collect_state(one)
    other, _ = build("gpt", second)
    spread(other, weights)
    for kind in other.update.optimizer.kinds:
        spread(other, state.get(kind), kind)
    other.update.optimizer.steps = 1
    told += steps(other, part, STEPS - 1, first=1)
    told.append(other.evaluate(part, np.arange(17)))
    assert told == alone("gpt")[0]


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_other_optimizers(build, name):
    layouts = [ParallelConfig(zero=zero) for zero in (0, 1, 3)]
    seen = set()
    for layout in layouts:
        model, part = build("gpt", layout, optim=OptimConfig(name=name))
        seen.add(repr(result(model, part)))
    assert len(seen) == 1


@pytest.mark.mpi(min_size=2)
def test_copies_that_differ_are_named(comm, build):
    model, _ = build("gpt", ParallelConfig())
    if comm.rank == comm.size - 1:
        model.weights.flat[0][5] += 1
    with pytest.raises(RuntimeError, match=f"rank {comm.size - 1} differs from rank 0 in weights"):
        compare_copies(model)


def test_a_norm_that_is_no_number(comm, build):
    model, part = build("gpt", ParallelConfig())
    steps(model, part, 1)
    for total in model.gradients:
        if comm.rank == 0 and total.result.size:
            total.result[-1] = np.nan
    assert np.isnan(model.update.norm())
