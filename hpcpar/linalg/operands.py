"""How a rank comes to the panels of an operand: it reads them in place, or they are sent.

A panel is a part of what the rank multiplies: some columns of its rows of A, or some rows of its
columns of B.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.linalg.layout import cut
from hpcpar.linalg.move import parts_of, sources
from hpcpar.linalg.parts import Part, copy_parts, extent
from hpcpar.schedule.steps import Recv, Send, Span, Step

if TYPE_CHECKING:
    from hpcpar.linalg.matrix import DistributedMatrix

__all__ = ["InPlace", "Shares", "Whole"]

Piece = tuple[int, list[Part], list[Part]]  # its owner, rows and columns


class InPlace:
    """An operand that is read where it lies: a panel of one rank is a view, no copy.

    Args:
        matrix: the operand.
        dtype: of the panels: what is wider, or conjugated, is a copy too.

    Attributes: words, elements read from others so far.
    """

    def __init__(self, matrix: "DistributedMatrix", dtype: np.dtype) -> None:
        self._matrix, self._dtype = matrix, dtype
        comm = matrix.comm
        self._rank = comm.rank
        self._owners = sources(matrix, comm.size, comm.rank)
        self._buffer: Array | None = None
        self.words = 0

    def copied(self, rows: range, columns: range) -> int:
        """Elements that would have to be copied for this panel: none where it is a view."""
        return 0 if _one(self._pieces(rows, columns)) else len(rows) * len(columns)

    def panel(self, rows: range, columns: range) -> Array:
        """A part of the operand."""
        matrix, pieces = self._matrix, self._pieces(rows, columns)
        for owner, down, across in pieces:
            if owner != self._rank:
                self.words += extent(down) * extent(across)
        panel = self._landing(len(rows), len(columns)) if self._copies(pieces) else None
        if _one(pieces):
            owner, ((height, r, _),), ((width, c, _),) = pieces[0]
            view = matrix.block(owner)[r : r + len(height), c : c + len(width)]
            if panel is None:
                return view
            if matrix.conjugated:
                return namespace(view).conj(view, out=panel)
            panel[...] = view
            return panel
        assert panel is not None
        for owner, down, across in pieces:
            copy_parts(panel, matrix.block(owner), down, across)
        return namespace(panel).conj(panel, out=panel) if matrix.conjugated else panel

    def _copies(self, pieces: Sequence[Piece]) -> bool:
        matrix = self._matrix
        return not _one(pieces) or matrix.conjugated or matrix.dtype != self._dtype

    def _pieces(self, rows: range, columns: range) -> list[Piece]:
        """What of the panel lies where."""
        found, wanted = [], (cut(rows), cut(columns))
        for owner in self._owners:
            down, across = parts_of(self._matrix.runs(owner), wanted)
            if down and across:
                found.append((owner, down, across))
        return found

    def _landing(self, height: int, width: int) -> Array:
        """Memory for a panel, which the next one uses again."""
        mine = self._matrix.block(self._rank)
        count = height * width
        if self._buffer is None or len(self._buffer) < count:
            self._buffer = None  # not both at a time
            self._buffer = namespace(mine).empty(count, self._dtype)
        return self._buffer[:count].reshape(height, width)


class Shares:
    """An operand of which the ranks of a line hold a share each, and send it to each other.

    Args:
        matrix: in the plan's own layout for this operand.
        axis: along which it is shared: 0 its rows, 1 its columns.
        line: the ranks that share a block.
        takers: the ranks that need what is theirs of it: they have something to multiply.
        name: of the buffer that panels travel in.
    """

    def __init__(
        self,
        matrix: "DistributedMatrix",
        axis: int,
        line: Sequence[int],
        takers: Sequence[int],
        name: str,
    ) -> None:
        self._matrix, self._axis, self._line, self._name = matrix, axis, line, name
        self._rank = matrix.comm.rank
        self._takers = [rank for rank in line if rank in takers]
        self._rooms: dict[int, Array] = {}

    def start(self, run: range, number: int) -> list[Step]:
        """What has to be sent and received of the panel `run`, the one with this number."""
        width = self._matrix.block(self._rank).shape[1 - self._axis]
        span = Span(self._name, 0, width * len(run))
        owner = self._owner(run)
        if not len(span) or owner is None:
            return []
        others = [other for other in self._takers if other != self._rank]
        if owner != self._rank:
            if self._rank not in self._takers:
                return []
            self._grow(len(span), number)
            return [Recv(owner, span)]
        if others:
            self._grow(len(span), number)
            self._shaped(len(run), number)[...] = self._own(run)
        return [Send(other, span) for other in others]

    def room(self, number: int) -> Array:
        """The memory that this panel travels in: every other one uses the same."""
        self._grow(1, number)
        return self._rooms[number % 2]

    def panel(self, run: range, number: int) -> Array:
        """The panel, when its messages are through."""
        here = self._owner(run) == self._rank
        panel = self._own(run) if here else self._shaped(len(run), number)
        if not self._matrix.conjugated:
            return panel
        self._grow(panel.size, number)
        return namespace(panel).conj(panel, out=self._shaped(len(run), number))

    def _shaped(self, width: int, number: int) -> Array:
        height = self._matrix.block(self._rank).shape[1 - self._axis]
        shape = (height, width) if self._axis else (width, height)
        return self._rooms[number % 2][: height * width].reshape(shape)

    def _own(self, run: range) -> Array:
        held = self._held(self._rank)
        part = slice(run.start - held.start, run.stop - held.start)
        block = self._matrix.block(self._rank)
        return block[:, part] if self._axis else block[part]

    def _owner(self, run: range) -> int | None:
        """This rank if it has the panel, else the one of the line that does."""
        for rank in (self._rank, *self._line):
            held = self._held(rank)
            if run and held.start <= run.start and run.stop <= held.stop:
                return rank
        return None

    def _held(self, rank: int) -> range:
        runs = self._matrix.runs(rank)[self._axis]
        return runs[0] if runs else range(0)

    def _grow(self, count: int, number: int) -> None:
        block = self._matrix.block(self._rank)
        room = self._rooms.get(number % 2)
        if room is None or len(room) < count:
            self._rooms.pop(number % 2, None)  # not both at a time
            del room
            self._rooms[number % 2] = namespace(block).empty(count, block.dtype)


class Whole:
    """An operand of which every rank has all: nothing travels.

    Args:
        matrix: replicated.
        part: what the rank takes of the axis that is not cut into panels.
        axis: along which panels are cut: 0 its rows, 1 its columns.
    """

    def __init__(self, matrix: "DistributedMatrix", part: range, axis: int) -> None:
        self._block, self._conjugated = matrix.block(matrix.comm.rank), matrix.conjugated
        self._part, self._axis = slice(part.start, part.stop), axis
        self._nothing = namespace(self._block).empty(1, self._block.dtype)

    def start(self, run: range, number: int) -> list[Step]:
        """Nothing has to be sent."""
        return []

    def room(self, number: int) -> Array:
        """Nothing travels in it."""
        return self._nothing

    def panel(self, run: range, number: int) -> Array:
        """A part of the operand."""
        inner = slice(run.start, run.stop)
        panel = self._block[self._part, inner] if self._axis else self._block[inner, self._part]
        return namespace(panel).conj(panel) if self._conjugated else panel  # a copy


def _one(pieces: Sequence[Piece]) -> bool:
    """Whether a panel is one run of rows and columns of one block."""
    return len(pieces) == 1 and len(pieces[0][1]) == len(pieces[0][2]) == 1
