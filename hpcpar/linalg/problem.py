"""A product that is asked for, and where its matrices lie: what a plan is priced by. Pure."""

from dataclasses import dataclass

from hpcpar.linalg.grids import Shape

__all__ = ["Places", "Problem"]


@dataclass(frozen=True)
class Problem:
    """A product to be computed.

    Attributes: shape (m, n, k); ranks; itemsize and wide, bytes of an element and of a partial sum;
    complex; tiles; memory, bytes a rank may take beside operands and result, or None; conjugated,
    whether A and B are conjugated views.
    """

    shape: Shape
    ranks: int
    itemsize: int
    wide: int
    complex: bool = False
    tiles: Shape | None = None
    memory: int | None = None
    conjugated: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Places:
    """Where the matrices of a product lie, as far as its memory depends on that.

    Attributes: edges of the blocks of A and B along k; apart, whether A, and B, lie otherwise than
    the plan wants; blocks, elements of the largest block of A and of B; strided, whether the result
    goes straight to a part of a larger block; out, elements of the largest block of an `out` that
    lies otherwise, or None; added, whether `out` is read, or narrower than partial sums; aligned,
    whether nothing has to move to it; sent, whether that is by messages; groups, sets of columns
    that `verify` compares; scattered, whether some matrix lies in many runs.
    """

    edges: tuple[int, ...] = ()
    apart: tuple[bool, bool] = (False, False)
    blocks: tuple[int, int] = (0, 0)
    strided: bool = False
    out: int | None = None
    added: bool = False
    aligned: bool = False
    sent: bool = False
    groups: int = 0
    scattered: bool = False
