"""Shape and dtype of an array in 128 bytes, so that ranks can tell each other what they bring."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (gives NumPy the names bfloat16, float8_e4m3fn, ...)
import numpy as np

from hpcpar.device import Array

__all__ = ["HEADER", "Header", "joined", "pack", "unpack"]

HEADER = 128
_NAME, _DIMS = 24, 10  # bytes of the dtype's name, and how many dimensions fit
_LEAD = 3  # numbers before the shape: on a GPU, rows of out, how many dimensions


class Header(NamedTuple):
    """What an array is."""

    dtype: str
    shape: tuple[int, ...]
    gpu: bool
    room: int = -1  # rows of the array that the result goes to; -1 where a new one is made

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{' on a GPU' if self.gpu else ''}"


def pack(array: Array, room: int = -1) -> np.ndarray:
    """An array's header as uint8. Raises ValueError beyond 10 dimensions."""
    if array.ndim > _DIMS:
        raise ValueError(f"arrays of at most {_DIMS} dimensions travel, not of {array.ndim}")
    raw = np.zeros(HEADER, np.uint8)
    name = np.frombuffer(array.dtype.name.encode()[:_NAME], np.uint8)
    raw[: len(name)] = name
    numbers = raw[_NAME:].view(np.int64)
    numbers[:_LEAD] = not isinstance(array, np.ndarray), room, array.ndim
    numbers[_LEAD : _LEAD + array.ndim] = array.shape
    return raw


def unpack(raw: np.ndarray) -> Header:
    """The header that `pack` made."""
    gpu, room, ndim, *extents = (int(number) for number in raw[_NAME:].view(np.int64))
    name = raw[:_NAME].tobytes().rstrip(b"\0").decode()
    return Header(name, tuple(extents[:ndim]), bool(gpu), room)


def joined(call: str, headers: Sequence[Header]) -> list[int]:
    """Extents along axis 0 of arrays that are to be joined there.

    Raises ValueError, the same on every rank, where they do not fit.
    """
    first = headers[0]
    for rank, header in enumerate(headers):
        if not header.shape:
            raise ValueError(f"{call}: rank {rank} has an array without axes; give it one to join")
        if _alike(header) != _alike(first):
            raise ValueError(
                f"{call}: rank 0 has {first} and rank {rank} has {header}; "
                "only the first axis may differ"
            )
    rows = [header.shape[0] for header in headers]
    for rank, header in enumerate(headers):
        if header.room not in (-1, sum(rows)):
            raise ValueError(
                f"{call}: out of rank {rank} has {header.room} rows, the result has {sum(rows)}"
            )
    return rows


def _alike(header: Header) -> Header:
    """What has to be the same on all ranks."""
    return header._replace(shape=header.shape[1:], room=-1)
