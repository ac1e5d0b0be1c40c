"""What a rank is about to do, in a few hundred bytes that the ranks can compare."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hpcpar.comm.request import Call
from hpcpar.comm.symmetric import Symmetric, local
from hpcpar.device import Array, as_array

__all__ = ["RECORD", "Record", "agreement", "content"]

_TEXT = 1200  # bytes of a field, at most, in UTF-8
RECORD = 4096  # bytes, at most: three fields
_FIELD, _LINE = "\f", "\n"
_ANY_ROWS = ("gather", "allgather", "alltoall")  # joined along axis 0
_ANY_DEVICE = ("bcast",)


class Record(NamedTuple):
    """What one rank says of its call.

    >>> Record("allreduce\\nfloat32[100]\\nop sum", "train.py:141")
    """

    agreed: str  # the operation and its facts, a line each: equal on all ranks, or it is a mismatch
    where: str  # file:line
    failure: str = ""  # why the call could not start

    def pack(self) -> bytes:
        """As it travels: `prefix` first."""
        fields = (_cut(self.failure), _cut(self.agreed), self.where.encode()[-_TEXT:])
        return _FIELD.encode().join(fields)

    @classmethod
    def unpack(cls, raw: bytearray) -> "Record":
        """The record that `pack` made; zeros follow it."""
        text = raw.rstrip(b"\0").decode(errors="replace")
        failure, agreed, where = text.split(_FIELD, 2)
        return cls(agreed, where, failure)

    @property
    def prefix(self) -> bytes:
        """How the records begin that agree with this one."""
        return _cut(self.agreed).join([_FIELD.encode()] * 2)

    @property
    def operation(self) -> str:
        """The name of the call."""
        return self.agreed.partition(_LINE)[0]

    @property
    def facts(self) -> list[str]:
        """What the call was given, as text."""
        return self.agreed.split(_LINE)[1:]


def agreement(call: Call) -> str:
    """What the ranks of a collective have to agree on: the operation, and the facts of its start.

    `x` is an array, of which some operations take any number of rows, or any device; `out` counts
    only where `x` is symmetric, for peers write there. Any other fact has to be equal as text.
    """
    lines = [call.name]
    for name, value in call.facts.items():
        if name == "x":
            lines.append(value if isinstance(value, str) else _array(call.name, value))
        elif name != "out":
            lines.append(f"{name} {value}")
        elif isinstance(call.facts["x"], Symmetric):
            shared = isinstance(value, Symmetric)
            lines.append(f"out {_array(call.name, value)}" if shared else "out of its own")
    return _LINE.join(lines)


def content(array: Array) -> str:
    """What the ends of a message have to agree on: elements and dtype. Shapes may differ."""
    return f"{array.size} {array.dtype.name}"


def _array(operation: str, thing: Array | Symmetric) -> str:
    array = as_array(local(thing))
    gpu = operation not in _ANY_DEVICE and not isinstance(array, np.ndarray)
    text = _array_text(array.dtype, array.shape, operation in _ANY_ROWS, gpu)
    return f"{text} of symmetric array {thing.place}" if isinstance(thing, Symmetric) else text


@lru_cache
def _array_text(dtype: np.dtype, shape: tuple[int, ...], any_rows: bool, gpu: bool) -> str:
    extents = [str(extent) for extent in shape]
    if any_rows and extents:
        extents[0] = "*"
    return f"{dtype.name}[{', '.join(extents)}]{' on a GPU' if gpu else ''}"


def _cut(text: str) -> bytes:
    """As many bytes of a text as a record has room for."""
    return text.encode()[:_TEXT]
