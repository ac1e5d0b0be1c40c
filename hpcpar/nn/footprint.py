"""What a layer takes from an arena, without computing anything: for planning.

An arena has a free list for every size in bytes, and training ends up with as many arrays of each
size as were ever lent at a time. So memory is counted by size: how many arrays of so many bytes.
"""

from collections import Counter
from dataclasses import dataclass, field

from hpcpar.nn.ops.blocks import block_rows

__all__ = ["Footprint", "Sizes", "floats", "gelu_backward_scratch", "norm_backward_scratch"]

Sizes = Counter[int]  # bytes of an array -> how many of them


@dataclass(frozen=True)
class Footprint:
    """The arrays of one layer, for an input of one shape.

    `forward`, `backward`, `input` and `weight` are the largest numbers of arrays of each size that
    are lent at a time within the call, beyond those that are lent when it begins (`x`; `dy` and
    what was saved). Where two arrays of different use have the same size they may be one more than
    ever are lent at once, never less.

    Attributes: saved, between forward and backward, with the input if it is kept; kept, between the
    two halves of backward; input and weight, within these halves.
    """

    saved: Sizes
    forward: Sizes
    backward: Sizes
    input: Sizes
    kept: Sizes
    weight: Sizes = field(default_factory=Counter)


def floats(*arrays: tuple[int, int]) -> Sizes:
    """(elements, how many arrays of them), of float32, as sizes."""
    found: Sizes = Counter()
    for elements, count in arrays:
        found[4 * elements] += count
    return found


def norm_backward_scratch(rows: int, columns: int, host: bool) -> Sizes:
    """What `ops.layernorm.backward` takes for (rows, columns)."""
    block, blocks = block_rows(rows, columns, host)
    return floats((2 * blocks * columns, 1), (block * columns, 1), (2 * block, 1), (columns, 1))


def gelu_backward_scratch(rows: int, columns: int, host: bool) -> Sizes:
    """What `ops.gelu.backward` takes for (rows, columns)."""
    return floats((block_rows(rows, columns, host)[1] * columns, 1))
