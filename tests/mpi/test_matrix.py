"""Distributed matrices: made, moved, looked at in part, and kept."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from long import only_on

import hpcpar
from hpcpar.device import to_host
from hpcpar.errors import UserError
from hpcpar.linalg import DistributedMatrix, create, distribute, from_file, from_function, save
from hpcpar.linalg.layout import LAYOUTS

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def comm(on_device):
    return on_device


def grids(size):
    """Meshes of so many ranks."""
    found = [(size, 1, 1), (1, size, 1)]
    found += [(2, size // 2, 1), (size // 2, 1, 2)] if size % 2 == 0 else []
    return list(dict.fromkeys(found))


def mesh_of(comm, grid):
    return hpcpar.Mesh(comm, rows=grid[0], columns=grid[1], layers=grid[2])


def ordinary(matrix):
    """The same matrix in ordinary memory: it then moves by messages."""
    return DistributedMatrix.from_local(
        matrix.mesh, matrix.local.copy(), matrix.shape, matrix.layout
    )


def equal(whole, expected):
    """Where there is something: the same values."""
    return whole is None or np.array_equal(to_host(whole), expected)


def values(m, n, dtype=np.float32):
    random = np.random.default_rng([m, n])
    x = random.standard_normal((m, n))
    if np.dtype(dtype).kind == "c":
        x = x + 1j * random.standard_normal((m, n))
    return x.astype(dtype)


@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (13, 1), (0, 4), (40, 33)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(comm, layout, shape):
    x = values(*shape)
    for grid in grids(comm.size):
        with_mesh = mesh_of(comm, grid)
        root = comm.size - 1
        A = distribute(x if comm.rank == root else None, with_mesh, layout, root, block=3)
        assert A.shape == shape and A.dtype == x.dtype and str(A.layout) == layout
        assert A.local.flags.c_contiguous
        for matrix in (A, ordinary(A)):
            whole = matrix.gather(root)
            assert (whole is not None) == (comm.rank == root) and equal(whole, x)
        with_mesh.close()


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16, "c8", "c16"])
def test_redistribute(comm, dtype):
    if dtype not in ("f4", "c16"):
        only_on(comm.size, 1, 2, 3, 4)
    x = values(23, 17, dtype)
    with_mesh = mesh_of(comm, grids(comm.size)[-1])
    for old in LAYOUTS:
        A = distribute(x if comm.rank == 0 else None, with_mesh, old, block=4)
        for new in LAYOUTS:
            for matrix in (A, ordinary(A)):
                B = matrix.redistribute(new, block=2)
                rows, columns = B.runs(comm.rank)
                i = [n for run in rows for n in run]
                j = [n for run in columns for n in run]
                assert equal(B.local, x[np.ix_(i, j)])
    with_mesh.close()


def test_views(comm):
    x = values(19, 11, "c16")
    with_mesh = mesh_of(comm, grids(comm.size)[-1])
    for layout in LAYOUTS:
        A = distribute(x if comm.rank == 0 else None, with_mesh, layout, block=3)
        for matrix in (A, ordinary(A)):
            for view, expected in (
                (matrix.T, x.T),
                (matrix.H, x.conj().T),
                (matrix.conj().conj(), x),
                (matrix[3:8], x[3:8]),
                (matrix[2:, 1:9], x[2:, 1:9]),
                (matrix[4:15].T[2:7, 1:], x[4:15].T[2:7, 1:]),
                (matrix[8:5], x[8:5]),
                (matrix.H[:3].H, x.conj().T[:3].conj().T),
            ):
                assert view.shape == expected.shape
                for way in (view, view.redistribute("rows")):
                    whole = way.gather()
                    assert equal(whole, expected)
    A.local[...] = 2
    assert (A.T.local == 2).all()  # the same memory
    comm.barrier()
    with_mesh.close()


def test_from_function(comm):
    with_mesh = mesh_of(comm, grids(comm.size)[0])
    for layout in LAYOUTS:
        A = from_function(lambda i, j: 10 * i + j, with_mesh, (9, 8), "f8", layout, block=2)
        whole = A.gather()
        assert equal(whole, np.add.outer(10 * np.arange(9), np.arange(8)))
    with pytest.raises((ValueError, RuntimeError), match="broadcast"):
        from_function(lambda i, j: np.zeros(3), with_mesh, (9, 8))
    with_mesh.close()


def test_files(comm, shared_path):
    x = values(21, 10, "f8")
    path = shared_path / "x.npy"
    with_mesh = mesh_of(comm, grids(comm.size)[-1])
    for layout in LAYOUTS:
        A = distribute(x if comm.rank == 0 else None, with_mesh, layout, block=4)
        save(A.T, path)
        assert np.array_equal(np.load(path), x.T)
        B = from_file(path, with_mesh, layout, block=3)
        whole = B.T.gather()
        assert equal(whole, x)
        comm.barrier()
    assert not list(shared_path.glob(".*"))
    with pytest.raises(UserError, match=r"none\.npy: there is no such file"):
        from_file(shared_path / "none.npy", with_mesh)
    comm.barrier()
    if comm.rank == 0:
        np.save(path, np.zeros(3))
    comm.barrier()
    with pytest.raises(UserError, match="no array of two axes"):
        from_file(path, with_mesh)
    with_mesh.close()


def test_what_cannot_be_saved_leaves_nothing(comm, shared_path, monkeypatch):
    with_mesh = mesh_of(comm, grids(comm.size)[0])
    A = DistributedMatrix.empty(with_mesh, (4, 4))
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        save(A, shared_path / "nowhere" / "x.npy")
    with pytest.raises(UserError, match="it is a folder"):
        save(A, shared_path)
    assert not list(shared_path.parent.glob(".*partial"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    for thing, name in ((Path, "replace"), (create, "_fill"), (create, "_create")):
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, fail)
            with pytest.raises(UserError, match=r"x\.npy.*: No space left on device"):
                save(A, shared_path / "x.npy")
        comm.barrier()
        assert not list(shared_path.iterdir())
    with_mesh.close()


def test_functions_are_not_called_for_nothing(comm):
    with_mesh = mesh_of(comm, (comm.size, 1, 1))

    def function(i, j):
        assert i.size and j.size
        return i + 10 * j

    for shape in ((2, 3), (comm.size, 1), (0, 4)):
        whole = from_function(function, with_mesh, shape, "f8").gather()
        assert equal(whole, np.add.outer(np.arange(shape[0]), 10 * np.arange(shape[1])))
    with_mesh.close()


@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_single_elements_are_dealt_out(comm, shared_path, dtype):
    """Blocks of one element: more pieces than can be copied one by one."""
    x = values(61, 90, dtype)
    with_mesh = mesh_of(comm, grids(comm.size)[-1])
    A = distribute(x if comm.rank == 0 else None, with_mesh, "cyclic", block=1)
    for matrix in (A, ordinary(A)):
        for layout in LAYOUTS:
            B = matrix.redistribute(layout, block=3)
            for way in (B, B.T.redistribute("cyclic", block=1).T):
                whole = way.gather()
                assert equal(whole, x)
    save(A, shared_path / "x.npy")
    assert np.array_equal(np.load(shared_path / "x.npy"), x)
    whole = from_file(shared_path / "x.npy", with_mesh, "cyclic", block=1).gather()
    assert equal(whole, x)
    with_mesh.close()


def test_refused(comm):
    with_mesh = mesh_of(comm, grids(comm.size)[0])
    here = comm.rank == 0
    for array, words in (
        (np.zeros(3), "1 axes"),
        (np.zeros((2, 2), int), "dtype int64"),
        ([[1.0]], "list is no array"),
        (None, "NoneType is no array"),
    ):
        with pytest.raises(ValueError, match=words):
            distribute(array if here else None, with_mesh)
    A = DistributedMatrix.empty(with_mesh, (4, 4))
    with pytest.raises(TypeError, match="takes slices"):
        A[1]
    with pytest.raises(ValueError, match="step 1"):
        A[::2]
    with pytest.raises(ValueError, match="root is"):
        A.gather(root=comm.size)
    with pytest.raises(ValueError, match="must be one of block"):
        A.redistribute("diagonal")
    with pytest.raises(ValueError, match="rank 0: block is"):
        DistributedMatrix.from_local(with_mesh, np.zeros((9, 9)), (4, 4))
    with pytest.raises(ValueError, match="rows and columns"):
        DistributedMatrix.empty(with_mesh, (4,))
    with_mesh.close()
    other = hpcpar.Mesh(comm, data=-1)
    with pytest.raises(ValueError, match="rows, columns and layers, in this order"):
        DistributedMatrix.empty(other, (4, 4))
    other.close()


def test_mesh(comm):
    mesh = hpcpar.Mesh(comm, data=-1, tensor=2 if comm.size % 2 == 0 else 1)
    assert mesh.sizes["data"] * mesh.sizes["tensor"] == comm.size
    assert mesh.coords["data"] * mesh.sizes["tensor"] + mesh.coords["tensor"] == comm.rank
    for name, size in mesh.sizes.items():
        if size > 1:
            part = mesh[name]
            assert part.size == size and part.rank == mesh.coords[name]
            others = [key for key in mesh.sizes if key != name]
            places = part.allgather(np.array([[mesh.coords[key] for key in others]]))
            assert (places == places[0]).all()
    mesh.close()
    for sizes in ({"data": 3 * comm.size}, {"data": 0}, {"data": -1, "tensor": -1}, {}):
        with pytest.raises(ValueError, match="mesh of"):
            hpcpar.Mesh(comm, **sizes)
