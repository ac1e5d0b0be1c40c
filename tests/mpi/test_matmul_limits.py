"""Where a product ends: in the memory that it may take, and when a rank fails."""

import gc
import re
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from long import only_on

import hpcpar
from hpcpar.linalg import DistributedMatrix, choice, distribute, matmul, operands, storage, sums
from hpcpar.linalg.arguments import problem_of
from hpcpar.linalg.choice import Into, candidate_costs
from hpcpar.linalg.grids import candidates

pytestmark = pytest.mark.mpi

OBJECTS = 96 << 10  # bytes of Python's own: steps and messages, mostly


@pytest.fixture(scope="module")
def comm():
    """Of this file alone: what others have left in one is memory too."""
    with hpcpar.Communicator(timeout=20) as communicator:
        yield communicator


@pytest.fixture(scope="module")
def mesh(comm):
    rows = 2 if comm.size % 2 == 0 else 1
    found = hpcpar.Mesh(comm, rows=rows, columns=-1)
    yield found
    found.close()


def filled(mesh, shape, dtype, layout="block", block=64, in_place=True):
    """A matrix of small whole numbers: their products are exact."""
    x = np.random.default_rng(list(shape)).integers(-2, 3, shape).astype(dtype)
    if np.dtype(dtype).kind == "c":
        x = x * (1 - 2j)
    matrix = distribute(x.astype(dtype) if mesh.comm.rank == 0 else None, mesh, layout, block=block)
    if in_place:
        return matrix
    return DistributedMatrix.from_local(mesh, matrix.local.copy(), shape, matrix.layout)


def some_grids(comm, shape):
    """One of each kind, of all ranks; of many ranks some."""
    kinds = {}
    for grid in candidates(shape, comm.size, "3d"):
        kinds.setdefault(tuple(extent > 1 for extent in grid), grid)
    return list(kinds.values())[:: 1 if comm.size <= 4 else 3]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("where", ["product", "add_product", "panel", "sums"])
def test_what_fails_on_one_rank_fails_on_all(comm, mesh, monkeypatch, where, in_place):
    """At once, and the next product is well."""
    A, B = (filled(mesh, (24, 24), "f4", in_place=in_place) for _ in range(2))

    def fail(*_):
        raise MemoryError("no room")

    for grid in some_grids(comm, (24, 24, 24)):
        if where == "add_product" and (A.reachable or grid[:2] == (1, 1)):
            continue  # one panel
        with monkeypatch.context() as patch:
            if comm.rank == comm.size - 1:
                if where == "panel":
                    for kind in (operands.InPlace, operands.Shares, operands.Whole):
                        patch.setattr(kind, "panel", fail)
                elif where == "sums":
                    patch.setattr(sums.Sums, "__init__", fail)
                else:
                    patch.setattr(sums, where, fail)
            with pytest.raises((MemoryError, RuntimeError), match="no room"):
                matmul(A, B, grid=grid)
        assert np.isfinite(matmul(A, B, grid=grid).local).all()


SHAPE = 448, 384, 576
SHALLOW = 48  # k, where what comes after the panels is to take most
WAYS = {
    "plain": {},
    "tiles": {"tiles": (64, 128, 192)},
    "verify": {"verify": True},
    "out": {"out": "cyclic", "alpha": -2},
    "added": {"grid": "columns", "out": "rows", "alpha": -2, "beta": 3},
    "layers": {"grid": "layers", "alpha": -2},
    "tiled layers": {"grid": "layers", "tiles": (64, 128, 8)},
}
BF16 = ml_dtypes.bfloat16
CASES = [
    *(("plain", dtype) for dtype in ("f4", "c8", BF16)),
    *((way, dtype) for way in ("tiles", "out", "layers") for dtype in ("f4", BF16)),
    *(("verify", dtype) for dtype in ("f4", "c8")),
    *(("added", dtype) for dtype in ("c8", BF16)),
    ("tiled layers", "c8"),
]


def arguments(mesh, way, dtype):
    """Of `matmul`."""
    given = dict(WAYS[way])
    if "out" in given:
        given["out"] = filled(mesh, SHAPE[:2], dtype, given["out"])
    if "grid" in given:
        size = mesh.comm.size
        given["grid"] = (1, 1, size) if given["grid"] == "layers" else (1, size, 1)
    return given


def least(A, B, given):
    """The memory that is needed, by the error for too little of it."""
    try:
        matmul(A, B, memory=0, **given)
    except ValueError as error:
        found = re.search(r"0 bytes a rank are too few; ([\d,]+) are needed", str(error))
        return int(found[1].replace(",", ""))
    return 0


def traced(comm, A, B, given):
    """The product, and what some rank allocated at its peak, besides it."""
    comm._scratch._free.clear()  # what earlier products left
    problem = problem_of(A, B, given.get("tiles"), given["memory"])
    into = Into(given.get("out"), given.get("beta", 0) != 0, given.get("verify", False))
    candidate_costs(A, B, problem, "auto", given.get("grid"), into)  # is remembered
    gc.collect()
    comm.barrier()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        C = matmul(A, B, **given)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    if C.storage.memory is None and C is not given.get("out"):
        peak -= C.local.nbytes
    return C, int(comm.allreduce(np.array([peak]), "max")[0])


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(("way", "dtype"), CASES)
def test_memory_is_kept(comm, mesh, monkeypatch, way, dtype, in_place):
    """What is predicted is an upper bound of what is allocated, with much memory or little."""
    only_on(comm.size, 1, 2, 3)
    if in_place == (CASES.index((way, dtype)) % 2 == 0):  # of three ranks, in one of the two ways
        only_on(comm.size, 1, 2)
    if comm.size > 4 and (way not in ("plain", "layers") or dtype == "f4"):
        pytest.skip("with fewer ranks")
    m, n, k = SHAPE
    k = k if way in ("plain", "tiles", "verify") else SHALLOW
    if not in_place:  # as between nodes: nothing is in shared memory, which is not traced
        for module in (storage, choice):
            monkeypatch.setattr(module, "lie_together", lambda comm: comm.size == 1)
    given = arguments(mesh, way, dtype)
    A = filled(mesh, (m, k), dtype, "block", in_place=in_place)
    B = filled(mesh, (n, k), dtype, "cyclic", 24, in_place=in_place).H
    reference = matmul(A, B, **given).gather()
    needed = least(A, B, given)
    for memory in (needed + (1 << 17), None):
        given = arguments(mesh, way, dtype)
        C, peak = traced(comm, A, B, given | {"memory": memory})
        extra = C.report.cost.extra
        assert memory is None or extra <= memory
        assert peak <= extra + OBJECTS
        whole = C.gather()
        assert whole is None or np.array_equal(whole, reference)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "c8", "f2"])
def test_the_memory_that_is_needed_is_enough(comm, mesh, dtype, in_place):
    """On grids of every kind, and without one, when it is the least of all."""
    only_on(comm.size, 1, 2, 3)
    A = filled(mesh, (60, 50), dtype, "block", in_place=in_place)
    B = filled(mesh, (50, 70), dtype, "rows", in_place=in_place)
    reference, every = (A @ B).gather(), []
    for grid in some_grids(comm, (60, 70, 50)):
        for tiles in (None, (16, 16, 8)):
            given = {"grid": grid, "tiles": tiles}
            needed = least(A, B, given)
            C = matmul(A, B, memory=needed, **given)
            assert C.report.cost.extra <= needed
            whole = C.gather()
            assert whole is None or np.array_equal(whole, reference)
            if needed:
                with pytest.raises(ValueError, match="too few"):
                    matmul(A, B, memory=needed - 1, **given)
        every.append(least(A, B, {"grid": grid}))
    needed = least(A, B, {})
    assert needed <= min(every)
    whole = matmul(A, B, memory=needed).gather()
    assert whole is None or np.array_equal(whole, reference)
