"""What `matmul` is given, looked at before anything moves: the same errors on every rank."""

import re
from math import prod
from numbers import Number

import numpy as np

from hpcpar.comm.perform import wide_dtype
from hpcpar.device import address
from hpcpar.linalg.grids import ALGORITHMS, Shape, family
from hpcpar.linalg.layout import Grid
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.problem import Problem

__all__ = ["check_operands", "check_out", "problem_of", "read_bytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{letter}i": 1 << 10 * power for power, letter in enumerate("KMGT", 1)}


def check_operands(
    A: DistributedMatrix,
    B: DistributedMatrix,
    algorithm: str,
    tiles: Shape | None,
    grid: Grid | None = None,
) -> None:
    """Raises TypeError and ValueError for what cannot be multiplied."""
    for name, matrix in (("A", A), ("B", B)):
        if not isinstance(matrix, DistributedMatrix):
            raise TypeError(
                f"matmul: {name} is a {type(matrix).__name__}; make it a DistributedMatrix with "
                "hpcpar.distribute(array, mesh)"
            )
    if A.comm is not B.comm:
        raise ValueError(f"matmul: A is on {A.mesh} and B on {B.mesh} of another communicator")
    if A.dtype != B.dtype:
        raise ValueError(f"matmul: A has dtype {A.dtype} and B {B.dtype}; they must be the same")
    if A.shape[1] != B.shape[0]:
        raise ValueError(
            f"matmul: A is {list(A.shape)} and B {list(B.shape)}: A's columns must be B's rows"
        )
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"matmul: algorithm is {algorithm!r}; it must be one of {', '.join(ALGORITHMS)}"
        )
    if tiles is not None and not _three(tiles):
        raise ValueError(f"matmul: tiles are {tiles!r}; they are three numbers from 1: m, n and k")
    if grid is not None:
        if not _three(grid):
            raise ValueError(f"matmul: grid is {grid!r}; it is three numbers of ranks from 1")
        if prod(grid) > A.comm.size:
            raise ValueError(
                f"matmul: a grid of {' x '.join(map(str, grid))} takes more than the "
                f"{A.comm.size} ranks"
            )
        p, q, r = grid
        if algorithm not in ("auto", *family((p, q, r))):
            raise ValueError(f"matmul: grid {tuple(grid)} is not one of algorithm {algorithm}")


def check_out(
    A: DistributedMatrix,
    B: DistributedMatrix,
    out: DistributedMatrix | None,
    alpha: complex,
    beta: complex,
) -> None:
    """Raises TypeError and ValueError for an `out` that cannot take the result."""
    for name, factor in (("alpha", alpha), ("beta", beta)):
        if not isinstance(factor, Number) or (np.iscomplexobj(factor) and A.dtype.kind != "c"):
            raise ValueError(
                f"matmul: {name} is {factor!r}; it must be a number of dtype {A.dtype}"
            )
    if out is None:
        if beta != 0:
            raise ValueError(f"matmul: beta is {beta!r} and there is no out for it to multiply")
        return
    if not isinstance(out, DistributedMatrix):
        raise TypeError(f"matmul: out is a {type(out).__name__}; it must be a DistributedMatrix")
    shape = A.shape[0], B.shape[1]
    if out.comm is not A.comm:
        raise ValueError("matmul: out is on another communicator than A and B")
    if out.shape != shape or out.dtype != A.dtype:
        raise ValueError(
            f"matmul: out is {out.dtype}{list(out.shape)}, the result is {A.dtype}{list(shape)}"
        )
    if out.conjugated:
        raise ValueError("matmul: out is a conjugated view, which cannot be written")
    for name, operand in (("A", A), ("B", B)):
        if _same_memory(operand, out):
            raise ValueError(f"matmul: out shares the memory of {name}; give it its own")
    if out.storage.memory is None:
        mine = out.storage.local
        read_only = isinstance(mine, np.ndarray) and not mine.flags.writeable
        if out.comm.allreduce(np.array([int(read_only)]), "max")[0]:
            raise ValueError("matmul: out has a block that is read-only")


def problem_of(
    A: DistributedMatrix, B: DistributedMatrix, tiles: Shape | None, memory: int | str | None
) -> Problem:
    """The product as the cost model sees it."""
    shape = A.shape[0], B.shape[1], A.shape[1]
    size = A.dtype.itemsize
    given = None
    if tiles is not None:  # a tile beyond the matrix is the matrix
        m, n, k = (min(int(t), max(1, e)) for t, e in zip(tiles, shape, strict=True))
        given = m, n, k
    return Problem(
        shape,
        A.comm.size,
        size,
        wide_dtype(A.dtype).itemsize,
        A.dtype.kind == "c",
        given,
        None if memory is None else read_bytes(memory),
        (A.conjugated, B.conjugated),
    )


def read_bytes(text: int | float | str) -> int:
    """A number of bytes: 2000000, "2GB", "512 MiB". Raises ValueError for anything else."""
    if isinstance(text, int | float | np.number) and not isinstance(text, bool):
        if text >= 0 and text == int(text):
            return int(text)
        text = str(text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?|)B?\s*", str(text), re.IGNORECASE)
    if not found or not isinstance(text, str):
        raise ValueError(f'memory is {text!r}; it is a number of bytes, or text like "2GB"')
    unit = found[2][:1].upper() + found[2][1:].lower()
    return int(float(found[1]) * _UNITS[unit])


def _three(numbers: object) -> bool:
    """Whether these are three whole numbers from 1."""
    return (
        isinstance(numbers, tuple | list)
        and len(numbers) == 3
        and all(isinstance(n, int | np.integer) and n >= 1 for n in numbers)
    )


def _same_memory(one: DistributedMatrix, other: DistributedMatrix) -> bool:
    """Whether two matrices share blocks, on any rank."""
    if one.storage is other.storage:
        return True
    if one.storage.memory is not None and other.storage.memory is not None:
        return one.storage.memory is other.storage.memory
    a, b = one.storage.local, other.storage.local
    shared = (
        a.size
        and b.size
        and max(address(a), address(b)) < min(address(a) + a.nbytes, address(b) + b.nbytes)
    )
    return bool(one.comm.allreduce(np.array([int(shared)]), "max")[0])
