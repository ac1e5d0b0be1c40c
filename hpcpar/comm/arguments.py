"""What the operations accept, and one sentence for what they do not."""

import numpy as np

from hpcpar.comm.symmetric import local
from hpcpar.device import Array, address, as_array, namespace

__all__ = [
    "ALGORITHMS",
    "UFUNCS",
    "check_dtype",
    "check_rank",
    "operand",
    "overlap",
    "reduction",
    "result",
]

ALGORITHMS = (
    *("auto", "ring", "halving", "direct", "hierarchical"),
    *("symmetric", "remote", "mpi", "nccl"),
)
UFUNCS = {"sum": "add", "mean": "add", "max": "maximum", "min": "minimum"}


def operand(call: str, name: str, thing: object, writable: bool = False) -> Array:
    """`thing` as an array over the same memory that can travel as bytes.

    Raises TypeError for what is no array of numbers, ValueError for one that is not C-contiguous.
    """
    array = as_array(local(thing))
    check_dtype(call, name, array.dtype)
    if not array.flags.c_contiguous:
        raise ValueError(f"{call}: {name} is not C-contiguous; pass numpy.ascontiguousarray of it")
    if writable and isinstance(array, np.ndarray) and not array.flags.writeable:
        raise ValueError(f"{call}: {name} is read-only, and the result has to go there")
    return array


def check_dtype(call: str, name: str, dtype: np.dtype) -> None:
    """Raises TypeError unless it is a dtype of numbers in native byte order (bfloat16 too)."""
    if dtype.hasobject or dtype.names or dtype.kind in "SUmM" or dtype.type is np.void:
        raise TypeError(f"{call}: {name} has dtype {dtype}; only arrays of numbers travel")
    if not dtype.isnative:
        raise TypeError(f"{call}: {name} has dtype {dtype}; convert it to native byte order")


def result(call: str, like: Array, shape: tuple[int, ...], out: object) -> Array:
    """`out` if it can hold the result, or a new array if it is None."""
    if out is None:
        return namespace(like).empty(shape, like.dtype)
    array = operand(call, "out", out, writable=True)
    if namespace(array) is not namespace(like):
        raise ValueError(f"{call}: one of x and out is on the host and the other on a GPU")
    if array.shape != shape or array.dtype != like.dtype:
        raise ValueError(
            f"{call}: out is {array.dtype}{list(array.shape)}, "
            f"the result is {like.dtype}{list(shape)}"
        )
    return array


def overlap(call: str, x: Array, out: Array) -> bool:
    """Whether `out` is the memory of `x`. Raises ValueError where they overlap only in part."""
    if x is out:
        return True
    if x.size == 0 or not namespace(x).may_share_memory(x, out):
        return False
    if x.shape != out.shape or address(x) != address(out):
        raise ValueError(f"{call}: x and out overlap in part; pass out=x, or separate arrays")
    return True


def reduction(call: str, op: str, array: Array) -> str:
    """The name of the ufunc that adds two ranks' values."""
    if not isinstance(op, str) or op not in UFUNCS:
        raise ValueError(f"{call}: op is {op!r}; it must be one of {', '.join(UFUNCS)}")
    kind = array.dtype.kind
    if op == "mean" and kind in "biu":
        raise TypeError(f"{call}: no mean in dtype {array.dtype}; pass floating-point numbers")
    if op in ("max", "min") and kind == "c":
        raise TypeError(f"{call}: complex numbers have no {op}")
    return UFUNCS[op]


def check_rank(call: str, name: str, rank: int, size: int) -> int:
    """`rank`, if there is one of this number."""
    if not isinstance(rank, int | np.integer) or not 0 <= rank < size:
        raise ValueError(f"{call}: {name} is {rank!r}; the ranks are 0 to {size - 1}")
    return int(rank)
