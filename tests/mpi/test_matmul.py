"""The distributed product against NumPy's: any shape, layout, grid, dtype, and view."""

import hashlib
import re

import ml_dtypes
import numpy as np
import pytest
from long import LONG, only_on

import hpcpar
from hpcpar import MismatchError
from hpcpar.device import to_host
from hpcpar.linalg import DistributedMatrix, distribute, matmul
from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.choice import predicted_bytes
from hpcpar.linalg.grids import candidates
from hpcpar.linalg.layout import LAYOUTS
from hpcpar.linalg.multiply import Product

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def comm(on_device):
    return on_device


DTYPES = ["f4", "f8", "f2", ml_dtypes.bfloat16, "c8", "c16"]
EPSILON = {2: 2.0**-7, 4: 2.0**-22, 8: 2.0**-50, 16: 2.0**-50}


@pytest.fixture(scope="module")
def mesh(comm):
    rows = 2 if comm.size % 2 == 0 else 1
    found = hpcpar.Mesh(comm, rows=rows, columns=-1)
    yield found
    found.close()


def values(random, shape, dtype):
    x = random.uniform(-1, 1, shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * random.uniform(-1, 1, shape)
    return x.astype(dtype)


def place(mesh, x, random, in_place=True):
    """x somewhere on the mesh, in some layout; sometimes as a view of something else."""
    kind = random.integers(4)
    layout = LAYOUTS[random.integers(len(LAYOUTS))]
    whole = x.T if kind == 1 else x.conj().T if kind == 2 else x
    if kind == 3:
        whole = np.pad(x, ((2, 1), (0, 3)), constant_values=np.nan)
    here = mesh.comm.rank == 0
    matrix = distribute(np.ascontiguousarray(whole) if here else None, mesh, layout, block=3)
    if not in_place:
        matrix = ordinary(matrix)
    if kind == 3:
        return matrix[2 : 2 + x.shape[0], : x.shape[1]]
    return matrix.T if kind == 1 else matrix.H if kind == 2 else matrix


def ordinary(matrix):
    return DistributedMatrix.from_local(
        matrix.mesh, matrix.local.copy(), matrix.shape, matrix.layout
    )


def check(result, expected, dtype):
    whole = result.gather()
    if whole is not None:
        whole = to_host(whole)
        error = np.abs(whole.astype("c16") - expected)
        kind = np.dtype(dtype)
        size = 4 if kind == np.complex64 else kind.itemsize
        assert whole.shape == expected.shape
        assert np.all(error <= EPSILON[size] * 30)  # values of at most 40


def some(grids, random, most):
    """All of a few; of many some, the same ones on all ranks."""
    if len(grids) <= most:
        return grids
    return [grids[i] for i in sorted(random.choice(len(grids), most, replace=False))]


def exact(a, b):
    return a.astype("c16") @ b.astype("c16")


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("case", range(18))
def test_against_numpy(comm, mesh, case, in_place):
    if case >= 6:  # six have each dtype once
        only_on(comm.size, 1, 2, 3)
    if in_place == (case % 2 == 0):  # of many ranks, in one of the two ways
        only_on(comm.size, 1, 2, 3, 4)
    random = np.random.default_rng([case, comm.size])
    m, n, k = random.choice([0, 1, 2, 3, 7, 16, 33, 40], 3)
    dtype = DTYPES[case % len(DTYPES)]
    a, b = values(random, (m, k), dtype), values(random, (k, n), dtype)
    A, B = place(mesh, a, random, in_place), place(mesh, b, random, in_place)
    before = to_host(A.local).tobytes(), to_host(B.local).tobytes()
    expected = exact(a, b)
    check(matmul(A, B), expected, dtype)
    for algorithm in random.choice(["data", "model", "summa", "3d"], 2, replace=False):
        check(matmul(A, B, algorithm), expected, dtype)
    out = place(mesh, np.full((m, n), np.nan, dtype), random, in_place)
    out = out.conj() if out.conjugated else out
    assert matmul(A, B, out=out) is out  # nothing of it is read
    check(out, expected, dtype)
    c = values(random, (m, n), dtype)
    out = distribute(c if comm.rank == 0 else None, mesh, "cyclic", block=5)
    matmul(A, B, out=out, alpha=-2, beta=0.5)
    check(out, -2 * expected + 0.5 * c.astype("c16"), dtype)
    tiles = tuple(int(t) for t in random.integers(1, 12, 3))
    check(matmul(A, B, tiles=tiles, verify=True), expected, dtype)
    assert before == (to_host(A.local).tobytes(), to_host(B.local).tobytes())


@pytest.mark.parametrize("in_place", [True, False])
def test_every_algorithm_takes_extents_of_nothing_and_of_one(comm, mesh, in_place):
    """And less than there are ranks."""
    if in_place:
        only_on(comm.size, 1, 2, 3, 4)
    random = np.random.default_rng([comm.size, 11])
    few = max(1, comm.size - 1)
    cases = [(0, 0, 0), (0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1), (few, 1, few)]
    for number, (m, n, k) in enumerate([*cases, (few, 40, 40), (40, few, 40), (40, 40, few)]):
        dtype = ("f4", "c8", ml_dtypes.bfloat16)[number % 3]
        a, b = values(random, (m, k), dtype), values(random, (k, n), dtype)
        A, B = place(mesh, a, random, in_place), place(mesh, b, random, in_place)
        for algorithm in ("data", "model", "summa", "3d"):
            tiles = (2, 3, 2) if algorithm == "3d" and number % 2 else None
            check(matmul(A, B, algorithm, alpha=-2, tiles=tiles), -2 * exact(a, b), dtype)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shape", [(33, 20, 47), (5, 64, 3), (2, 3, 90)])
def test_every_grid_moves_what_was_predicted(comm, mesh, shape, in_place):
    if shape != (33, 20, 47):
        only_on(comm.size, 1, 2, 3)
    m, n, k = shape
    random = np.random.default_rng(comm.size)
    a, b = values(random, (m, k), "f4"), values(random, (k, n), "f4")
    most = 6 if comm.size <= 4 or LONG else 3
    for layout in ("block", "rows", "replicated", "cyclic"):
        A, B = (distribute(x if comm.rank == 0 else None, mesh, layout, block=4) for x in (a, b))
        if not in_place:
            A, B = ordinary(A), ordinary(B)
        for grid in some(list(candidates((m, n, k), comm.size)), random, most):
            for tiles in (None, (8, 8, 8)):
                C = matmul(A, B, grid=grid, tiles=tiles)
                check(C, exact(a, b), "f4")
                plan = C.report.cost.plan
                assert plan.grid == grid
                predicted = sum(predicted_bytes(A, B, plan, rank) for rank in range(comm.size))
                measured = comm.allreduce(np.array([C.report.bytes]))[0]
                assert measured == predicted


def test_words_in_the_plans_own_layout(comm, mesh):
    """Then a product moves the words of `explain`, no more, whichever way they travel."""
    m, n, k = 48, 36, 60
    random = np.random.default_rng(1)
    a, b = values(random, (m, k), "f8"), values(random, (k, n), "f8")
    for grid in candidates((m, n, k), comm.size, "3d"):
        first = matmul(
            *(distribute(x if comm.rank == 0 else None, mesh) for x in (a, b)), grid=grid
        )
        plan = first.report.cost.plan
        A = distribute(a if comm.rank == 0 else None, mesh, plan.a)
        B = distribute(b if comm.rank == 0 else None, mesh, plan.b)
        for x, y in ((A, B), (ordinary(A), ordinary(B))):
            C = matmul(x, y, grid=grid)
            check(C, exact(a, b), "f8")
            words = sum(sum(plan.received(rank)) for rank in range(comm.size))
            assert comm.allreduce(np.array([C.report.bytes]))[0] == 8 * words
            assert C.report.cost.words >= lower_bound(m, n, k, comm.size) * (1 - 1e-12)


@pytest.mark.parametrize("dtype", ["f4", "c8", ml_dtypes.bfloat16])
def test_tiles_give_the_same_bits_everywhere(comm, mesh, dtype):
    """On every grid of this number of ranks, in every layout; and on one rank."""
    if dtype == "c8":
        only_on(comm.size, 1, 2, 3)
    random = np.random.default_rng(7)
    a, b = values(random, (45, 70), dtype), values(random, (70, 38), dtype)
    tiles = 16, 8, 12
    most = 12 if comm.size <= 4 or LONG else 5
    alone = comm.split(comm.rank)
    one = hpcpar.Mesh(alone, rows=1)
    seen = set()
    wanted = to_host(matmul(distribute(a, one), distribute(b, one), tiles=tiles).local).tobytes()
    for layout in ("block", "cyclic", "columns"):
        A = distribute(a if comm.rank == 0 else None, mesh, layout, block=5)
        B = distribute(b.T.copy() if comm.rank == 0 else None, mesh, layout, block=5).T
        for x, y in ((A, B), (ordinary(A), ordinary(B.T).T)):
            for grid in some(list(candidates((45, 38, 70), comm.size)), random, most):
                whole = matmul(x, y, grid=grid, tiles=tiles).gather()
                if comm.rank == 0:
                    seen.add(to_host(whole).tobytes())
    assert comm.rank or seen == {wanted}
    digest = hashlib.sha256(wanted).digest()
    assert (comm.allgather(np.frombuffer(digest, np.uint8)[None]) == list(digest)).all()
    alone.close()


@pytest.mark.parametrize("dtype", ["f2", ml_dtypes.bfloat16])
def test_alpha_and_beta_come_before_rounding(comm, mesh, dtype):
    """In every layout of `out`: the same bits, and nothing overflows on the way."""
    random = np.random.default_rng(9)
    a, b = (random.uniform(20, 40, shape).astype(dtype) for shape in ((24, 90), (90, 24)))
    A, B = (distribute(x if comm.rank == 0 else None, mesh) for x in (a, b))
    seen = set()
    for layout in LAYOUTS:
        out = distribute(a[:, :24].copy() if comm.rank == 0 else None, mesh, layout, block=5)
        for beta in (0, 1):
            matmul(A, B, out=out, alpha=0.3, beta=beta, tiles=(8, 8, 16))
        whole = out.gather()
        if whole is not None:
            seen.add(to_host(whole).tobytes())
            assert np.isfinite(to_host(whole).astype("f4")).all()
    assert len(seen) == (comm.rank == 0)


def test_verify_of_numbers_that_are_hard_to_tell(comm, mesh):
    """Too small, or not finite: no block is called wrong that is right."""
    for dtype, size in (("f2", 1e-4), ("f4", 1e-23), ("f8", 1e-160)):
        x = np.full((16, 16), size, dtype)
        X = distribute(x if comm.rank == 0 else None, mesh)
        matmul(X, X, verify=True)
    x = np.ones((16, 16), np.float32)
    x[3, 4] = np.nan
    X = distribute(x if comm.rank == 0 else None, mesh)
    assert np.isnan(comm.allreduce(np.array([float(matmul(X, X, verify=True).local.sum())]))[0])


@pytest.mark.mpi(min_size=2)
def test_ranks_that_ask_for_different_products(comm, mesh):
    A = DistributedMatrix.empty(mesh, (8, 8))
    for how in ({"alpha": comm.rank}, {"algorithm": "data" if comm.rank else "model"}):
        with pytest.raises(MismatchError, match="matmul"):
            matmul(A, A, **how)
    with pytest.raises(ValueError, match="rank 1"):
        DistributedMatrix.from_local(
            mesh, np.zeros(tuple(map(len_of, mine(mesh, 8 + comm.rank)))), (8 + comm.rank, 8)
        )


def mine(mesh, rows):
    return DistributedMatrix.empty(mesh, (8, 8)).layout.runs((rows, 8), mesh.comm.rank)


def len_of(runs):
    return sum(map(len, runs))


def test_verify_names_the_rank(comm, mesh, monkeypatch):
    random = np.random.default_rng(3)
    a, b = values(random, (64, 40), "f4"), values(random, (40, 56), "f4")
    A, B = (distribute(x if comm.rank == 0 else None, mesh) for x in (a, b))
    matmul(A, B, verify=True)
    guilty = comm.size - 1
    finish = Product._finish

    def wrong(self, total, alpha):
        finish(self, total, alpha)
        if self.comm.rank == guilty:
            self.result.local[0, 0] += 0.5

    monkeypatch.setattr(Product, "_finish", wrong)
    with pytest.raises(ArithmeticError, match=f"the block of rank {guilty} is wrong: 1 rows"):
        matmul(A, B, "data", verify=True)


def test_explain(comm, mesh):
    A = DistributedMatrix.empty(mesh, (64, 32))
    B = DistributedMatrix.empty(mesh, (32, 48))
    C = matmul(A, B)
    told = hpcpar.explain(A, B)
    assert told.costs[0].plan == C.report.cost.plan
    after = str(hpcpar.explain(A, B, result=C)).splitlines()[-1]
    moved = re.search(r"moved ([\d,]+) bytes among all ranks \(predicted ([\d,]+)\)", after)
    assert moved and moved[1] == moved[2]
    with pytest.raises(ValueError, match="no product"):
        hpcpar.explain(A, B, result=A)
    assert "words" in str(told) and len(str(told).splitlines()) == 2 + len(told.costs)


def test_out_over_an_operand(comm, mesh):
    """Also over a part of it, by views of one matrix or of the ranks' own arrays."""
    A, B = DistributedMatrix.empty(mesh, (8, 8)), DistributedMatrix.empty(mesh, (8, 8))
    rows = comm.size
    room = np.zeros((3, 8), np.float32)
    over, under = (
        DistributedMatrix.from_local(mesh, room[part], (2 * rows, 8), "rows")
        for part in (slice(2), slice(1, 3))
    )
    apart = DistributedMatrix.from_local(mesh, np.zeros((2, 8), "f4"), (2 * rows, 8), "rows")
    mine = DistributedMatrix.from_local(mesh, A.local, A.shape, A.layout)
    for x, y, out, name in (
        (A, B, A, "A"),
        (B, A, A.T, "B"),
        (A[:4], B[:, :4], A[4:, 4:], "A"),
        (B[:4], A[:, 2:6], A[2:6, 2:6], "B"),
        (over, B, over, "A"),
        (over, B, under, "A"),
        (mine, B, A, "A"),
        (A, B, mine, "A"),
    ):
        if comm.device.kind == "cpu" or out is not under:
            with pytest.raises(ValueError, match=f"out shares the memory of {name}"):
                matmul(x, y, out=out)
    assert matmul(over, B, out=apart) is apart


def test_refused(comm, mesh):
    A = DistributedMatrix.empty(mesh, (6, 4))
    B = DistributedMatrix.empty(mesh, (4, 5))
    for call, kind, words in (
        (lambda: matmul(A, A), ValueError, "A's columns must be B's rows"),
        (lambda: matmul(A, np.zeros((4, 5))), TypeError, "B is a ndarray"),
        (lambda: matmul(A, DistributedMatrix.empty(mesh, (4, 5), "f8")), ValueError, "dtype"),
        (lambda: matmul(A, B, "strassen"), ValueError, "must be one of auto"),
        (lambda: matmul(A, B, beta=1), ValueError, "no out"),
        (lambda: matmul(A, B, out=A), ValueError, r"out is float32\[6, 4\]"),
        (lambda: matmul(A.T, A, out=A[:4, :4]), ValueError, "out shares the memory of A"),
        (lambda: matmul(A, B, tiles=5), ValueError, "three numbers"),
        (lambda: matmul(A, B, "data", grid=(1, 1, 2)), ValueError, "more than the|not one of"),
        (lambda: matmul(A, B, memory=True), ValueError, "memory is True"),
        (lambda: matmul(A, B, alpha="2"), ValueError, "alpha is '2'"),
        (lambda: A @ np.zeros((4, 5)), TypeError, "unsupported operand|not support ufuncs"),
        (lambda: np.zeros((5, 6)) @ A, TypeError, "unsupported operand|not support ufuncs"),
        (lambda: np.asarray(A), TypeError, r"A\.gather"),
        (lambda: matmul(A, B, tiles=(1, 2)), ValueError, "three numbers"),
        (lambda: matmul(A, B, tiles=(0, 2, 2)), ValueError, "three numbers"),
        (lambda: matmul(A, B, memory="much"), ValueError, "memory is 'much'"),
        (lambda: matmul(A, B, grid=(comm.size + 1, 1, 1)), ValueError, "takes more than"),
        (lambda: matmul(A, B, grid=(1, 0, 1)), ValueError, "three numbers of ranks"),
        (lambda: matmul(A, B, alpha=1j), ValueError, "alpha is 1j"),
        (lambda: A @ 3, TypeError, "unsupported operand"),
    ):
        with pytest.raises(kind, match=words):
            call()
    alone = comm.split(comm.rank)
    if comm.size > 1:
        one = hpcpar.Mesh(alone, rows=1)
        with pytest.raises(ValueError, match="another communicator"):
            matmul(A, DistributedMatrix.empty(one, (4, 5)))
    alone.close()
