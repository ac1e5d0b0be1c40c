"""The same code on CuPy arrays; several ranks may share one GPU."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcpar.comm import Communicator
from hpcpar.nn import Arena, Flat, gpt
from hpcpar.optim import OptimConfig, make_optimizer
from hpcpar.parallel import SharedUpdate
from hpcpar.tree import TreeSum

pytestmark = [pytest.mark.mpi, pytest.mark.gpu]


@pytest.fixture(scope="module")
def gpu():
    with Communicator(device="cuda", timeout=30) as comm:
        yield comm


def numbers(rank: int, size: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(rank).standard_normal(size) * 10).astype(dtype)


@pytest.mark.parametrize("size", [0, 1, 7, 1009, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "complex64"])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "halving", "direct"])
def test_allreduce(gpu, size, dtype, algorithm):
    if algorithm == "halving" and gpu.size & (gpu.size - 1):
        pytest.skip("halving takes a power of two")
    xp = gpu.device.xp
    arrays = [numbers(rank, size, dtype) for rank in range(gpu.size)]
    with Communicator(MPI.COMM_WORLD, device="cpu") as host:
        expected = host.allreduce(arrays[gpu.rank], algorithm=algorithm)
    x = xp.asarray(arrays[gpu.rank])
    result = gpu.allreduce(x, algorithm=algorithm)
    assert isinstance(result, xp.ndarray)
    assert np.array_equal(result.get(), expected), "addition is addition, on a GPU too"
    assert np.array_equal(x.get(), arrays[gpu.rank])


def test_a_result_of_work_under_way_is_waited_for(gpu):
    """The array is still being computed when the operation starts."""
    xp = gpu.device.xp
    x = xp.ones((2048, 2048), np.float32)
    for _ in range(20):
        x = x @ xp.full((2048, 2048), 1 / 2048, np.float32)
    total = gpu.allreduce(x)
    assert np.allclose(total.get(), gpu.size, rtol=1e-4)


def test_movement(gpu):
    xp = gpu.device.xp
    mine = xp.full((gpu.rank + 1, 3), gpu.rank, np.float32)
    joined = np.concatenate([np.full((r + 1, 3), r, np.float32) for r in range(gpu.size)])
    assert np.array_equal(gpu.allgather(mine).get(), joined)
    gathered = gpu.gather(mine, root=gpu.size - 1)
    if gpu.rank == gpu.size - 1:
        assert np.array_equal(gathered.get(), joined)
    else:
        assert gathered is None
    x = xp.arange(10, dtype=np.float32) if gpu.rank == 0 else xp.zeros(10, np.float32)
    assert np.array_equal(gpu.bcast(x).get(), np.arange(10, dtype=np.float32))
    parts = np.array_split(np.arange(10, dtype=np.float32), gpu.size)
    part = gpu.scatter(x if gpu.rank == 0 else None)
    assert np.array_equal(part.get() if hasattr(part, "get") else part, parts[gpu.rank])
    total = gpu.reduce_scatter(x)
    assert np.array_equal(total.get(), parts[gpu.rank] * gpu.size)


def test_tree_sum_has_the_bits_of_the_host(gpu):
    xp = gpu.device.xp
    leaves = [numbers(number, 1009) for number in range(7)]
    with Communicator(MPI.COMM_SELF, device="cpu") as alone:
        host = TreeSum(alone, 7, like=leaves[0])
        for number in host.mine:
            host.add(number, leaves[number])
        expected = host.reduce()
    total = TreeSum(gpu, 7, like=xp.asarray(leaves[0]))
    for number in total.mine:
        total.add(number, xp.asarray(leaves[number]))
    assert np.array_equal(total.reduce().get(), expected)


def test_gpt_computes_what_it_computes_on_a_cpu(gpu):
    model = gpt(layers=2, heads=2, width=32, context=16, vocabulary=50)
    tokens = np.random.default_rng(0).integers(0, 50, (3, 17)).astype(np.int32)
    inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    results = []
    for xp in (np, gpu.device.xp):
        flat = Flat(model.parameters, xp)
        weights, gradient = flat.empty(), flat.empty_gradients()
        flat.initialize(weights, 1)
        loss = model.loss_and_gradients(
            flat.params_views(weights), flat.gradient_views(gradient),
            xp.asarray(inputs), xp.asarray(targets), 1 / targets.size, Arena(xp),
        )  # fmt: skip
        results.append((loss, gradient))
    (host_loss, host_gradient), (loss, gradient) = results
    assert loss == pytest.approx(host_loss, rel=1e-5)
    difference = np.linalg.norm(gradient.get() - host_gradient) / np.linalg.norm(host_gradient)
    assert difference < 1e-4


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_update(gpu, name):
    model = gpt(layers=1, heads=2, width=34, context=8, vocabulary=131)
    results = []
    for xp in (np, gpu.device.xp):
        flat = Flat(model.parameters, xp)
        weights, gradient = flat.empty(), flat.empty_gradients()
        flat.initialize(weights, 3)
        gradient[...] = xp.asarray(numbers(0, gradient.size))
        optimizer = make_optimizer(OptimConfig(name=name), flat.parameters, xp)
        views = flat.gradient_views(gradient)
        update = SharedUpdate(optimizer, weights, flat.params_views(weights), views, gpu)
        norm = update.norm()
        update.step(1e-2, 1 / norm)
        results.append((norm, weights if xp is np else weights.get()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    assert np.allclose(results[1][1], results[0][1], rtol=1e-5, atol=1e-7)
