"""The ranks that share one model's tensors, and what they add up and bring together."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array, namespace
from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layers import layer_steps
from hpcpar.nn import Arena
from hpcpar.nn.footprint import Footprint
from hpcpar.parallel.context import Context
from hpcpar.parallel.place import Place, place_of
from hpcpar.parallel.tiles import Tiles, deal_tiles
from hpcpar.parallel.timeline import Timeline
from hpcpar.schedule.collectives import allgather, allreduce
from hpcpar.schedule.steps import Step

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["Pending", "TensorGroup"]


class Pending:
    """A sum under way, of arrays of the arena."""

    def __init__(
        self,
        parts: Sequence[Array],
        out: Array,
        arena: Arena,
        timeline: Timeline,
        request: "Request | None" = None,
    ) -> None:
        self._parts, self._out, self._arena = parts, out, arena
        self._timeline, self._request = timeline, request

    def wait(self) -> Array:
        """The sum: an array that belongs to the caller."""
        if self._request is not None:
            with self._timeline.on("communication", "tensor sum"):
                self._request.wait()
        self._arena.give([part for part in self._parts if part is not self._out])
        return self._out


class TensorGroup:
    """The ranks along the tensor axis of a mesh.

    Args:
        ranks: those along the axis; None where there is one, a place in a plan.
        tiles: of every axis that is cut, whatever the number of ranks; None takes one a rank.
        sequence: whether the residual stream's rows are shared too, between the products.
        context: the positions that this rank has, of all rows. With tiles their spans are tiles of
            the rows.

    Raises ValueError where there are more ranks than tiles.
    """

    def __init__(
        self,
        ranks: "Communicator | Place | None",
        tiles: int | None,
        sequence: bool = False,
        context: Context | None = None,
    ) -> None:
        place = place_of(ranks)
        self.rank, self.size, self.comm = place.rank, place.size, place.comm
        self.context = context or Context()
        self.timeline = self.context.timeline
        self.tiled = tiles is not None  # the bits must not depend on the number of ranks
        self.tiles = self.size if tiles is None else tiles
        self.sequence = sequence and self.size > 1
        if self.size > self.tiles:
            raise ValueError(
                f"{self.size} tensor-parallel ranks share {self.tiles} tiles: take at most "
                f"{self.tiles} ranks, or more tiles"
            )
        self._known: dict[Hashable, Footprint] = {}
        spans = self.context.spans
        if self.tiled and self.sequence and self.size > spans.each:
            raise ValueError(
                f"with --parallel.sequence true {self.size} tensor-parallel ranks share what "
                f"there is of spans of positions, {spans.each}: take as few, or more tiles"
            )

    def once(self, key: Hashable, make: Callable[[], Footprint]) -> Footprint:
        """What `make` returned when this key was first asked for: alike layers have one."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def deal(self, what: str, extent: int, unit: int = 1) -> Tiles:
        """The tiles of an axis of `extent` units of `unit` elements each; see `deal_tiles`."""
        return deal_tiles(what, extent, self.tiles, self.rank, self.size, unit)

    def rows(self, count: int) -> Tiles:
        """The tiles of the residual stream's rows that this rank looks after: all, or its own."""
        if self.sequence:
            return _rows(count, self._row_tiles, self.rank, self.size)
        return _rows(count, self._row_tiles, 0, 1)

    def row_tiles(self, count: int) -> list[slice]:
        """The tiles of all `count` rows: with tiles the spans of positions, otherwise one."""
        return self.context.rows(count) if self.tiled else [slice(0, count)]

    def sum_rows(
        self, count: int, write: Callable[[slice, Array], None], out: Array, arena: Arena
    ) -> None:
        """out = the sum of what write(rows, out) writes for each tile of `count` rows, by the tree.

        It is what this rank has of a sum over all positions.
        """
        tiles = self.row_tiles(count)

        def add(first: int, stop: int, total: Array) -> None:
            if stop - first == 1:
                write(tiles[first], total)
                return
            middle = first + (1 << (stop - first - 1).bit_length() - 1)
            add(first, middle, total)
            right = arena.take(total.shape, total.dtype)
            add(middle, stop, right)
            namespace(total).add(total, right, out=total)
            arena.give(right)

        add(0, len(tiles), out)

    def held_rows(self, count: int) -> tuple[range, ...]:
        """Which of the residual stream's rows each rank looks after, where they are shared."""
        return _row_runs(count, self._row_tiles, self.size)

    @property
    def _row_tiles(self) -> int:
        """Tiles of the rows: the spans, or one for each rank that looks after some."""
        if self.tiled:
            return self.context.spans.each
        return self.size if self.sequence else 1

    def own_rows(self, stream: Array) -> Array:
        """The rows of an array (N, C) that this rank looks after; a view."""
        held = self.rows(len(stream)).held
        return stream[held.start : held.stop]

    def start_sum(
        self, tiles: Tiles, roots: Sequence[Array], arena: Arena, spread: bool = False
    ) -> Pending:
        """Begin to add up what all tiles have of an array (N, C). Collective.

        Every rank gets the sum; with `spread` the rows that it looks after (`rows`). `roots` are
        this rank's subtotals, of its part of the tree over the tiles (`Subtotals`); they are the
        arena's, and belong to the sum. It is the sum of a product's layers: the ranks stand along
        k, and what is counted along k is tiles.
        """
        if self.comm is None or len(tiles.mine) == len(tiles.runs):
            return Pending(roots, roots[0], arena, self.timeline)
        (count, width), dtype = roots[0].shape, roots[0].dtype
        buffers = {f"root{i}": root for i, root in enumerate(roots)}
        if spread and self.sequence:
            out = arena.take((len(self.rows(count).held), width), dtype)
        else:
            out = buffers.pop("root0")  # in place
        steps = self.sum_steps(tiles, (count, width), spread, dtype.itemsize)
        request = self.comm.irun(steps, {"out": out, **buffers}, name="tensor_sum")
        return Pending(roots, out, arena, self.timeline, request)

    def sum_steps(
        self, tiles: Tiles, shape: tuple[int, int], spread: bool, itemsize: int = 4
    ) -> tuple[Step, ...]:
        """What this rank does in the sum of an array of this shape; see `start_sum`."""
        plan = Plan((*shape, len(tiles.runs)), (1, 1, self.size), (1, 1, 1))
        segment = max(1, SEGMENT_BYTES // itemsize)
        if spread and self.sequence:
            return layer_steps(plan, self.rank, segment, rows=self.held_rows(shape[0]))
        nodes = None if self.comm is None else self.comm.node_map
        return layer_steps(plan, self.rank, segment, everywhere=True, nodes=nodes)

    def combine(self, x: Array, op: str = "sum") -> None:
        """x = the sum or the max of all ranks' x, where the order does not matter. Collective."""
        if self.comm is None or self.size == 1:
            return
        segment, nodes = max(1, SEGMENT_BYTES // x.itemsize), self.comm.node_map
        steps = allreduce(self.rank, self.size, x.size, "auto", "out", segment=segment, nodes=nodes)
        with self.timeline.on("communication", f"tensor {op}"):
            self.comm.run(steps, {"out": x}, op, name=f"tensor_{op}")

    def gather(self, part: Array, count: int, arena: Arena) -> tuple[Array, list[Array]]:
        """All `count` rows of an array of which every rank has those of `rows`. Collective.

        Also the arrays to give back afterwards: none where `part` has all rows.
        """
        if self.comm is None or not self.sequence:
            return part, []
        width = part.shape[1]
        counts = tuple(len(run) * width for run in self.held_rows(count))
        segment, nodes = max(1, SEGMENT_BYTES // part.itemsize), self.comm.node_map
        steps = allgather(self.rank, self.size, counts, segment, nodes)
        gathered = arena.take((count, width), part.dtype)
        with self.timeline.on("communication", "tensor rows"):
            self.comm.run(steps, {"x": part, "out": gathered}, name="tensor_rows")
        return gathered, [gathered]


@lru_cache(maxsize=256)
def _rows(count: int, tiles: int, rank: int, size: int) -> Tiles:
    return deal_tiles("rows of a micro-batch", count, tiles, rank, size)


@lru_cache(maxsize=64)
def _row_runs(count: int, tiles: int, size: int) -> tuple[range, ...]:
    """The rows of every rank."""
    return tuple(_rows(count, tiles, rank, size).held for rank in range(size))
