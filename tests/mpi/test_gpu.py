"""The same code on CuPy arrays; several ranks may share one GPU."""

import ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI
from small_models import small_model

from hpcpar.comm import Communicator
from hpcpar.errors import UserError
from hpcpar.fingerprint import weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.nn import Arena, Flat, gpt
from hpcpar.nn.documents import model_within
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.state import collect
from hpcpar.tree import TreeSum

pytestmark = [pytest.mark.mpi, pytest.mark.gpu]

# Goes on until the host says so, or 20 s of a card's cycles are over.
SPIN = r"""
extern "C" __global__ void spin(volatile int* stop) {
    long long start = clock64();
    while (*stop == 0 && clock64() - start < 40000000000LL) {}
}
"""
DTYPES = ["float32", "float64", "float16", "int32", "int16", "bool", "complex64", "bfloat16"]


@pytest.fixture(scope="module")
def gpu():
    with Communicator(device="cuda", timeout=30) as comm:
        yield comm


@pytest.fixture(scope="module", params=["staged", "mpi", "nccl"])
def on(request):
    """A communicator of each backend that this machine has."""
    try:
        comm = Communicator(device="cuda", backend=request.param, timeout=30)
    except UserError as error:
        pytest.skip(f"needs backend {request.param} ({error})")
    with comm:
        yield comm


@pytest.fixture(scope="module")
def host():
    with Communicator(device="cpu", timeout=30) as comm:
        yield comm


def numbers(rank: int, size: int, dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng(rank).standard_normal(size) * 10
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def same(array, expected):
    """The bits of a GPU array; of bfloat16 too, which NumPy compares by value."""
    return array.get().tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("size", [0, 1, 1009, (1 << 20) + 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_allreduce_of_every_dtype(on, host, size, dtype):
    x = numbers(on.rank, size, dtype)
    device = on.device.xp.asarray(x)
    result = on.allreduce(device)
    assert isinstance(result, on.device.xp.ndarray)
    assert same(result, host.allreduce(x)), "addition is addition, on a GPU too"
    assert same(device, x)


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "halving", "direct"])
def test_allreduce_by_every_algorithm(on, host, op, algorithm):
    x = numbers(on.rank, 100_003)
    device = on.device.xp.asarray(x)
    on.allreduce(device, op, out=device, algorithm=algorithm)
    assert same(device, host.allreduce(x, op, algorithm=algorithm))


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min"])
def test_ncclAllReduce(on, op):
    x = np.arange(1000.0) * (on.rank + 1)
    device = on.device.xp.asarray(x)
    try:
        result = on.allreduce(device, op, algorithm="nccl")
    except ValueError as error:
        pytest.skip(f"algorithm nccl is backend nccl's ({error})")
    total = np.arange(1000.0) * on.size * (on.size + 1) / 2
    expected = {"sum": total, "mean": total / on.size, "max": np.arange(1000.0) * on.size,
                "min": np.arange(1000.0)}  # fmt: skip
    assert np.allclose(result.get(), expected[op], rtol=1e-14)


def test_reductions_to_one_and_to_parts(on, host):
    x = numbers(on.rank, 7 * 50_001).reshape(7, -1)
    device, root = on.device.xp.asarray(x), on.size - 1
    reduced, expected = on.reduce(device, root), host.reduce(x, root)
    assert (reduced is None and expected is None) or same(reduced, expected)
    assert same(on.reduce_scatter(device), host.reduce_scatter(x))


@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64", "bfloat16"])
def test_movement(on, host, dtype):
    xp, root = on.device.xp, on.size - 1
    x = numbers(on.rank, 3 * 100_001 * (on.rank + 1), dtype).reshape(-1, 3)
    device = xp.asarray(x)
    whole = host.allgather(x)
    assert same(on.allgather(device), whole)
    gathered = on.gather(device, root)
    assert same(gathered, whole) if on.rank == root else gathered is None
    assert same(on.alltoall(device), host.alltoall(x))
    part = on.scatter(xp.asarray(whole) if on.rank == root else None, root)
    assert same(part, np.array_split(whole, on.size)[on.rank])
    y = xp.asarray(whole) if on.rank == root else xp.zeros(whole.shape, whole.dtype)
    assert same(on.bcast(y, root), whole)
    on.barrier()


def test_messages_around_the_ring(on):
    """Of many chunks, of one, of none; started at once and waited for in another order."""
    xp = on.device.xp
    following, previous = (on.rank + 1) % on.size, (on.rank - 1) % on.size
    sizes = [3_000_000, 5, 0, 400_000, 1]
    outs = [xp.zeros(size, np.float32) for size in sizes]
    requests = [on.irecv(out, previous, tag=i) for i, out in enumerate(outs)]
    for i in (3, 0, 4, 1, 2):
        requests.append(on.isend(xp.asarray(numbers(on.rank, sizes[i])), following, tag=i))
    for request in reversed(requests):
        request.wait()
    assert all(same(out, numbers(previous, size)) for out, size in zip(outs, sizes, strict=True))


def test_from_a_gpu_to_the_host(on):
    following, previous = (on.rank + 1) % on.size, (on.rank - 1) % on.size
    out = np.zeros(300_001, np.float32)
    request = on.irecv(out, previous)
    on.send(on.device.xp.asarray(numbers(on.rank, out.size)), following)
    assert np.array_equal(request.wait(), numbers(previous, out.size))


@pytest.mark.parametrize("size", [64, 2048])
def test_a_result_is_not_read_before_it_is_there(on, size):
    """Produced on one slow stream, communicated, consumed on another."""
    xp = on.device.xp
    making, using = (xp.cuda.Stream(non_blocking=True) for _ in range(2))
    step = xp.full((size, size), 1 / size, np.float32)
    xp.cuda.get_current_stream().synchronize()
    with making:
        x = xp.ones((size, size), np.float32)
        for _ in range(30):
            x = x @ step
        request = on.iallreduce(x)
    total = request.wait()
    with using:
        result = total * 2
    using.synchronize()
    assert np.allclose(result.get(), 2 * on.size, rtol=1e-4)


def test_the_stream_of_the_call_counts_not_that_of_the_wait(on):
    """The operation goes on in `wait`, where another stream is current."""
    xp, making = on.device.xp, on.device.xp.cuda.Stream(non_blocking=True)
    step = xp.full((2048, 2048), 1 / 2048, np.float32)
    xp.cuda.get_current_stream().synchronize()
    with making:
        x = xp.full((2048, 2048), on.rank, np.float32)
        for _ in range(30):
            x = x @ step
        requests = [on.iallreduce(x), on.iallgather(x)]
    total, joined = (request.wait() for request in requests)
    assert np.allclose(total.get(), sum(range(on.size)), rtol=1e-4)
    expected = np.repeat(np.arange(on.size), 2048)[:, None]
    assert np.allclose(joined.get(), expected, rtol=1e-4)


def test_the_device_is_not_synchronized(on):
    """A kernel that ends only when told to runs beside; whoever waits for the card, hangs."""
    xp = on.device.xp
    import cupyx

    stop = cupyx.zeros_pinned(1, np.int32)
    beside = xp.cuda.Stream(non_blocking=True)
    x = xp.asarray(numbers(on.rank, 500_000))
    on.allreduce(x)  # memory is there: to get some may synchronize
    with beside:
        xp.RawKernel(SPIN, "spin")((1,), (1,), (np.uintp(stop.ctypes.data),))
    try:
        on.allreduce(x)
        still = not beside.done
    finally:
        stop[0] = 1
        beside.synchronize()
    assert still


def test_torch_arrays_travel_in_place(on):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    x = torch.full((100_000,), float(on.rank), device=f"cuda:{on.device.index}")
    on.allreduce(x, out=x)
    assert torch.all(x == sum(range(on.size)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_symmetric_arrays_are_read_where_they_lie(gpu, host, dtype):
    """CUDA IPC: also between ranks that share one card."""
    x = numbers(gpu.rank, 300_007, dtype)
    try:
        s = gpu.symmetric(x.shape, x.dtype)
    except MemoryError as error:
        pytest.skip(f"needs GPU memory that ranks can share ({error})")
    assert isinstance(s.local, gpu.device.xp.ndarray)
    assert not s.local.get().any()
    for _ in range(3):
        s.local[...] = gpu.device.xp.asarray(x)
        s.sync()
        following = (gpu.rank + 1) % gpu.size
        assert same(s.peer(following), numbers(following, len(x), dtype))
        s.sync()
        gpu.allreduce(s, out=s)
        assert same(s.local, host.allreduce(x))
        s.sync()


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


@pytest.mark.parametrize("documents", [False, True])
def test_gpt_computes_what_it_computes_on_a_cpu(gpu, documents):
    model = gpt(layers=2, heads=2, width=32, context=16, vocabulary=50)
    tokens = np.random.default_rng(0).integers(0, 50, (3, 17)).astype(np.int32)
    inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    results = []
    for xp in (np, gpu.device.xp):
        flat = Flat(model.parameters, xp)
        weights, gradient = flat.empty(), flat.empty_gradients()
        flat.initialize(weights, 1)
        starts = xp.asarray(np.arange(16, dtype=np.int32) // 5 * 5)[None].repeat(3, axis=0)
        own = model_within(model, starts) if documents else model
        loss = own.loss_and_gradients(
            flat.params_views(weights), flat.gradient_views(gradient),
            xp.asarray(inputs), xp.asarray(targets), 1 / targets.size, Arena(xp),
        )  # fmt: skip
        results.append((loss, gradient))
    (host_loss, host_gradient), (loss, gradient) = results
    assert loss == pytest.approx(host_loss, rel=1e-5)
    difference = np.linalg.norm(gradient.get() - host_gradient) / np.linalg.norm(host_gradient)
    assert difference < 1e-4


def test_training_has_the_same_bits_on_any_layout(gpu):
    plain, part = small_model("gpt")
    seen = set()
    for layout in (
        ParallelConfig(zero=0), ParallelConfig(zero=2), ParallelConfig(zero=3, recompute=True),
        ParallelConfig(pipeline=gpu.size if gpu.size < 8 else 4, schedule="zero-bubble"),
    ):  # fmt: skip
        mesh = Mesh(gpu, **layout.sizes(gpu.size))
        model = parallelize(plain, mesh, layout, BatchConfig(16, 2, 4))
        model.initialize(2)
        for step in range(3):
            loss = model.loss_and_gradients(part, np.arange(16) + step)
            norm = model.update.norm()
            model.update.step(1e-2, 1 / norm)
        weights = collect(model)
        seen.add((loss, norm, weights and weights_sha256(weights)))
        mesh.close()
    assert len(seen) == 1
