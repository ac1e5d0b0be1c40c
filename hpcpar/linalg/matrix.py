"""`DistributedMatrix`: every rank holds a block of it, in a plain NumPy or CuPy array."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hpcpar.device import Array, as_array, namespace
from hpcpar.linalg.layout import Grid, Layout, Runs, cut, length, named
from hpcpar.linalg.storage import Storage, check_dtype, extents

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.linalg.cost import Report
    from hpcpar.mesh import Mesh

__all__ = ["DistributedMatrix", "grid_of", "layout_of", "lies_so"]


class DistributedMatrix:
    """A matrix, or a view of one: transposed, conjugated, a part of its rows and columns.

    >>> A = hpcpar.distribute(array, mesh, layout="block")
    >>> C = A.T @ B
    >>> C.gather(root=0)

    Views share the blocks, as NumPy's do. Attributes: mesh; shape; dtype; layout; local, this
    rank's block, which may be written (of a conjugated view it is a copy); report, of a product,
    what it took.
    """

    def __init__(
        self,
        mesh: "Mesh",
        storage: Storage,
        window: tuple[range, range] | None = None,
        turned: bool = False,
        conjugated: bool = False,
    ) -> None:
        self.mesh, self.storage = mesh, storage
        whole = range(storage.shape[0]), range(storage.shape[1])
        self._window = whole if window is None else window
        self._partial = self._window != whole
        self.turned, self.conjugated = turned, conjugated
        self.report: Report | None = None

    @classmethod
    def empty(
        cls,
        mesh: "Mesh",
        shape: tuple[int, int],
        dtype: Any = np.float32,
        layout: "str | Layout" = "block",
        block: int = 64,
    ) -> Self:
        """A matrix of zeros: where its ranks share a node, in memory that all of them read.

        Args:
            layout: block, cyclic, rows, columns, replicated, or another matrix's layout.
            block: of layout cyclic, the rows and columns that stay together.

        Collective.
        """
        dtype = check_dtype(dtype)
        laid = layout_of(mesh, layout, block)
        return cls(mesh, Storage.allocate(mesh.comm, laid, _shape(shape), dtype))

    @classmethod
    def from_local(
        cls,
        mesh: "Mesh",
        block: Any,
        shape: tuple[int, int],
        layout: "str | Layout" = "block",
        cycle: int = 64,
    ) -> Self:
        """A matrix over the ranks' own arrays, without a copy.

        Args:
            block: this rank's part, C-contiguous, as `layout` cuts it: by numpy.array_split's rule.
            shape: of the whole matrix.
            cycle: of layout cyclic, the rows and columns that stay together: what other functions
                call `block`, which here is the array.

        Collective. Raises ValueError, the same on every rank, where a block has another shape.
        """
        from hpcpar.comm import agree

        laid, shape, problem = layout_of(mesh, layout, cycle), _shape(shape), ""
        try:
            array = as_array(block)
            check_dtype(array.dtype)
            wanted = extents(laid, shape, mesh.comm.rank)
            if array.shape != wanted or not array.flags.c_contiguous:
                order = "" if array.flags.c_contiguous else " and not C-contiguous"
                problem = f"block is {list(array.shape)}{order}; its part is {list(wanted)}"
        except (TypeError, ValueError) as error:
            array, problem = None, str(error)
        told = agree(mesh.comm, problem or f"={array.dtype.name} of {list(shape)}, {laid!r}")
        for rank, text in enumerate(told):
            if not (text or "").startswith("="):
                raise ValueError(f"from_local: rank {rank}: {text}")
            if text != told[0]:
                raise ValueError(
                    f"from_local: rank 0 has {(told[0] or '')[1:]}, rank {rank} {(text or '')[1:]}"
                )
        return cls(mesh, Storage(mesh.comm, laid, shape, array))

    @property
    def comm(self) -> "Communicator":
        """The ranks."""
        return self.storage.comm

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole matrix."""
        rows, columns = (len(part) for part in self._window)
        return (columns, rows) if self.turned else (rows, columns)

    @property
    def dtype(self) -> np.dtype:
        """Of every block."""
        return self.storage.local.dtype

    @property
    def layout(self) -> Layout:
        """How the blocks lie; of a part of a matrix, how those of the whole do."""
        return self.storage.layout.T if self.turned else self.storage.layout

    @property
    def local(self) -> Array:
        """This rank's block."""
        block = self.block(self.comm.rank)
        return namespace(block).conj(block) if self.conjugated else block

    @property
    def T(self) -> "DistributedMatrix":
        """The transposed matrix, a view."""
        return self._view(turned=not self.turned)

    @property
    def H(self) -> "DistributedMatrix":
        """The conjugated and transposed matrix, a view."""
        return self.T.conj()

    def conj(self) -> "DistributedMatrix":
        """The complex conjugate, a view."""
        return self._view(conjugated=self.conjugated != (self.dtype.kind == "c"))

    def __getitem__(self, index: Any) -> "DistributedMatrix":
        """Rows a to b, or rows and columns: `A[2:5]`, `A[2:5, :7]`; a view."""
        parts = index if isinstance(index, tuple) else (index, slice(None))
        if len(parts) != 2 or not all(isinstance(part, slice) for part in parts):
            raise TypeError("a distributed matrix takes slices: A[2:5] or A[2:5, :7]")
        picked = [range(extent)[part] for extent, part in zip(self.shape, parts, strict=True)]
        if any(part.step != 1 for part in picked):
            raise ValueError("slices of a distributed matrix have step 1")
        if self.turned:
            picked.reverse()
        rows, columns = (
            range(whole.start + part.start, whole.start + max(part.start, part.stop))
            for whole, part in zip(self._window, picked, strict=True)
        )
        return self._view(window=(rows, columns))

    def runs(self, rank: int) -> tuple[Runs, Runs]:
        """The rows and the columns that a rank holds, as runs of their numbers."""
        rows, columns = self.storage.layout.runs(self.storage.shape, rank)
        if self._partial:
            rows, columns = _clip(rows, self._window[0]), _clip(columns, self._window[1])
        return (columns, rows) if self.turned else (rows, columns)

    def block(self, rank: int) -> Array:
        """A rank's block, before conjugation: this rank's or, if `reachable`, any."""
        block = self.storage.block(rank)
        if self._partial:
            runs = self.storage.layout.runs(self.storage.shape, rank)
            rows, columns = (
                _places(part, window) for part, window in zip(runs, self._window, strict=True)
            )
            block = block[rows, columns]
        return block.T if self.turned else block

    @property
    def place(self) -> object:
        """Where everything lies: equal for matrices that lie alike."""
        return self.storage.layout, self.storage.shape, self._window, self.turned

    @property
    def reachable(self) -> bool:
        """Whether every rank's block can be read where it lies."""
        return self.storage.reachable

    def redistribute(self, layout: "str | Layout", block: int = 64) -> "DistributedMatrix":
        """The same matrix in another layout: a new one. Collective.

        Args:
            layout: block, cyclic, rows, columns, replicated, or another matrix's layout.
            block: of layout cyclic, the rows and columns that stay together.
        """
        from hpcpar.linalg.move import move

        laid = layout_of(self.mesh, layout, block)
        result = type(self).empty(self.mesh, self.shape, self.dtype, laid)
        move(self, result.runs, result.local)
        return result

    def gather(self, root: int = 0) -> Array | None:
        """The whole matrix on the root, None elsewhere. Collective."""
        from hpcpar.linalg.move import move

        if not 0 <= root < self.comm.size:
            raise ValueError(f"gather: root is {root!r}; the ranks are 0 to {self.comm.size - 1}")
        here = self.comm.rank == root
        into = self.comm.device.xp.empty(self.shape if here else (0, 0), self.dtype)
        rows, columns = (cut(range(extent)) for extent in self.shape)
        move(self, lambda rank: (rows, columns) if rank == root else ((), ()), into, "gather")
        return into if here else None

    __array_ufunc__ = None  # NumPy's operators leave the decision to this class

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("a distributed matrix is no array: take A.local, or A.gather()")

    def __matmul__(self, other: "DistributedMatrix") -> "DistributedMatrix":
        from hpcpar.linalg.product import matmul

        if not isinstance(other, DistributedMatrix):
            return NotImplemented
        return matmul(self, other)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<DistributedMatrix: {self.dtype}[{rows}, {columns}], {self.layout} on {self.mesh}>"

    def _view(self, **changes: Any) -> "DistributedMatrix":
        kept: dict[str, Any] = {
            "window": self._window, "turned": self.turned, "conjugated": self.conjugated
        }  # fmt: skip
        return DistributedMatrix(self.mesh, self.storage, **(kept | changes))


def grid_of(mesh: "Mesh") -> Grid:
    """The mesh as rows x columns x layers. Raises ValueError for a mesh with other axes."""
    names = ("rows", "columns", "layers")
    if list(mesh.sizes) != [name for name in names if name in mesh.sizes]:
        raise ValueError(f"{mesh}: matrices take a mesh of rows, columns and layers, in this order")
    rows, columns, layers = (mesh.sizes.get(name, 1) for name in names)
    return rows, columns, layers


def layout_of(mesh: "Mesh", layout: "str | Layout", block: int = 64) -> Layout:
    """A layout by its name; one that is there already as it is. Raises ValueError."""
    if not isinstance(layout, Layout):
        return named(layout, grid_of(mesh), block)
    if layout.ranks > mesh.comm.size:
        raise ValueError(
            f"layout {layout} is for {layout.ranks} ranks, and {mesh} has {mesh.comm.size}"
        )
    return layout


def lies_so(matrix: DistributedMatrix, layout: Layout) -> bool:
    """Whether every rank holds what it would in this layout."""
    ranks = range(matrix.comm.size)
    return all(matrix.runs(rank) == layout.runs(matrix.shape, rank) for rank in ranks)


def _shape(shape: Any) -> tuple[int, int]:
    sizes = tuple(int(extent) for extent in shape)
    if len(sizes) != 2 or min(sizes) < 0:
        raise ValueError(f"shape is {list(sizes)}; a matrix has rows and columns, not negative")
    return sizes


def _clip(runs: Runs, window: range) -> Runs:
    """The part of the runs that is in a window, counted from its start."""
    inside = (range(max(run.start, window.start), min(run.stop, window.stop)) for run in runs)
    shift = window.start
    return tuple(range(run.start - shift, run.stop - shift) for run in inside if run)


def _places(runs: Runs, window: range) -> slice:
    """Where the elements of a window are among those of the runs."""
    before = sum(len(range(run.start, min(run.stop, window.start))) for run in runs)
    return slice(before, before + length(_clip(runs, window)))
