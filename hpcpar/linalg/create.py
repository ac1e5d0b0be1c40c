"""How distributed matrices come to be, and how they are kept: arrays, functions, .npy files."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  (gives NumPy the name bfloat16)
import numpy as np

from hpcpar.comm import agree, together
from hpcpar.device import Array, as_array, to_host
from hpcpar.errors import UserError
from hpcpar.files import flush
from hpcpar.linalg.layout import Layout, Runs, cut
from hpcpar.linalg.matrix import DistributedMatrix, check_dtype
from hpcpar.linalg.move import move
from hpcpar.linalg.parts import Part, copy_parts, joined

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.mesh import Mesh

__all__ = ["distribute", "from_file", "from_function", "save"]


def distribute(
    array: Any, mesh: "Mesh", layout: "str | Layout" = "block", root: int = 0, block: int = 64
) -> DistributedMatrix:
    """A matrix from the root's array; `array` is None on the other ranks.

    Args:
        array: two-dimensional, of NumPy, CuPy, or another library through DLPack.
        layout: block, cyclic, rows, columns, replicated, or another matrix's layout.
        block: of layout cyclic, the rows and columns that stay together.

    Collective. Raises ValueError and TypeError on every rank where it cannot be done.
    """
    comm = mesh.comm
    if not 0 <= root < comm.size:
        raise ValueError(f"distribute: root is {root!r}; the ranks are 0 to {comm.size - 1}")
    given, words = None, None
    if comm.rank == root:
        try:
            given = as_array(array)
            if given.ndim != 2:
                raise ValueError(f"an array of {given.ndim} axes is no matrix: reshape it to two")
            check_dtype(given.dtype)
            words = f"={given.dtype.name} {given.shape[0]} {given.shape[1]}"
        except (TypeError, ValueError) as error:
            words = str(error)
    told = agree(comm, words)[root] or ""
    if not told.startswith("="):
        raise ValueError(f"distribute: {told}")
    name, rows, columns = told[1:].split()
    shape, dtype = (int(rows), int(columns)), np.dtype(name)
    result = DistributedMatrix.empty(mesh, shape, dtype, layout, block)
    if given is None:
        given = comm.device.xp.empty((0, 0), dtype)
    source = _OnRoot(comm, comm.device.asarray(given), root, shape)
    move(source, result.runs, result.local, "distribute")
    return result


def from_function(
    function: Callable[[Array, Array], Array],
    mesh: "Mesh",
    shape: tuple[int, int],
    dtype: Any = np.float32,
    layout: "str | Layout" = "block",
    block: int = 64,
) -> DistributedMatrix:
    """The matrix of function(i, j), where i is a column of row numbers and j a row of column ones.

    >>> hilbert = from_function(lambda i, j: 1 / (i + j + 1), mesh, (1000, 1000), np.float64)

    Each rank that holds a part computes it, from integer arrays on its device. Collective.
    """
    result = DistributedMatrix.empty(mesh, shape, dtype, layout, block)
    xp = mesh.comm.device.xp
    rows, columns = (_numbers(xp, runs) for runs in result.runs(mesh.comm.rank))
    with together(mesh.comm):
        if rows.size and columns.size:
            result.local[...] = function(rows[:, None], columns[None, :])
    return result


def from_file(
    path: "str | Path", mesh: "Mesh", layout: "str | Layout" = "block", block: int = 64
) -> DistributedMatrix:
    """The matrix of a .npy file, of which each rank reads its own part. Collective.

    Raises `UserError` on every rank for a file that is missing or holds no matrix.
    """
    comm = mesh.comm
    with together(comm):
        file = _open(Path(path))
    result = DistributedMatrix.empty(mesh, file.shape, file.dtype, layout, block)
    mine, (rows, columns) = result.local, result.runs(comm.rank)
    with together(comm):
        host = mine if comm.device.kind == "cpu" else np.empty(mine.shape, mine.dtype)
        copy_parts(host, file, joined(_in_file(rows), False), joined(_in_file(columns), False))
        if host is not mine:
            mine[...] = comm.device.asarray(host)
    return result


def save(matrix: DistributedMatrix, path: "str | Path") -> None:
    """Write a matrix to a .npy file, of which each rank writes its own part. Collective.

    All ranks see the same folder. The file is whole or not there: it is written beside, and then
    renamed; a failure leaves nothing behind. Raises `UserError` on every rank where it cannot be
    written, TypeError for bfloat16, which the format has no name for.
    """
    comm, target = matrix.comm, Path(path)
    if matrix.dtype.name == "bfloat16":
        raise TypeError("save: .npy files have no bfloat16; save it as another dtype")
    with together(comm):
        if comm.rank == 0:
            _check_target(target)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with together(comm):
            if comm.rank == 0:
                _as_user_error(lambda: _create(partial, matrix.shape, matrix.dtype), partial)
        with together(comm):
            runs = [matrix.runs(rank) for rank in range(comm.size)]
            if runs.index(runs[comm.rank]) == comm.rank:  # of copies, the first writes
                _as_user_error(lambda: _fill(partial, matrix), partial)
        with together(comm):
            if comm.rank == 0:
                _as_user_error(lambda: partial.replace(target), target)
    except BaseException:
        if comm.rank == 0:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


class _OnRoot:
    """A whole array on one rank, as a source of `move`."""

    conjugated, reachable = False, False

    def __init__(self, comm: "Communicator", array: Array, root: int, shape: tuple[int, int]):
        self.comm, self._array, self._root = comm, array, root
        self._whole = cut(range(shape[0])), cut(range(shape[1]))

    def runs(self, rank: int) -> tuple[Runs, Runs]:
        """All on the root, nothing elsewhere."""
        return self._whole if rank == self._root else ((), ())

    def block(self, rank: int) -> Array:
        """The array."""
        return self._array


def _numbers(xp: Any, runs: Runs) -> Array:
    parts = [xp.arange(run.start, run.stop) for run in runs]
    return xp.concatenate(parts) if parts else xp.arange(0)


def _in_file(runs: Runs) -> list[Part]:
    """Runs with their places in the file, which has all."""
    return [(run, run.start, run.start) for run in runs]


def _open(path: Path) -> np.ndarray:
    try:
        file = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: it is no .npy file that can be read ({error})") from None
    if not isinstance(file, np.ndarray) or file.ndim != 2:
        raise UserError(f"{path}: it holds no array of two axes")
    try:
        check_dtype(file.dtype)
    except TypeError as error:
        raise UserError(f"{path}: {error}") from None
    return file


def _check_target(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")


def _create(path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()


def _fill(path: Path, matrix: DistributedMatrix) -> None:
    rows, columns = matrix.runs(matrix.comm.rank)
    if not rows or not columns:
        return
    file = np.lib.format.open_memmap(path, "r+")
    down, across = (joined(_in_file(runs), here=True) for runs in (rows, columns))
    copy_parts(file, to_host(matrix.local), down, across)
    file.flush()
    flush(path)


def _as_user_error(work: Callable[[], object], path: Path) -> None:
    try:
        work()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
