"""The ranks that share one model's tensors, and what they add up together."""

from math import prod
from typing import TYPE_CHECKING

from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array
from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layers import layer_steps
from hpcpar.nn import Arena
from hpcpar.parallel.tiles import Tiles, deal_tiles
from hpcpar.schedule.collectives import allreduce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["Pending", "TensorGroup"]


class Pending:
    """A sum under way. All arrays are the arena's."""

    def __init__(self, roots: "Sequence[Array]", request: "Request | None", arena: Arena) -> None:
        self._roots, self._request, self._arena = roots, request, arena

    def wait(self) -> Array:
        """The sum: an array that belongs to the caller."""
        if self._request is not None:
            self._request.wait()
        total, *others = self._roots
        self._arena.give(others)
        return total


class TensorGroup:
    """The ranks along the tensor axis of a mesh.

    Args:
        comm: these ranks; None where there is one.
        tiles: of every axis that is cut, whatever the number of ranks; None takes one a rank.

    Raises ValueError where there are more ranks than tiles.
    """

    def __init__(self, comm: "Communicator | None", tiles: int | None) -> None:
        self.comm = comm
        self.rank, self.size = (0, 1) if comm is None else (comm.rank, comm.size)
        self.tiled = tiles is not None  # the bits must not depend on the number of ranks
        self.tiles = self.size if tiles is None else tiles
        if self.size > self.tiles:
            raise ValueError(
                f"{self.size} tensor-parallel ranks share {self.tiles} tiles: take at most "
                f"{self.tiles} ranks, or more tiles"
            )

    def deal(self, what: str, extent: int, unit: int = 1) -> Tiles:
        """The tiles of an axis of `extent` units of `unit` elements each; see `deal_tiles`."""
        return deal_tiles(what, extent, self.tiles, self.rank, self.size, unit)

    def start_sum(self, tiles: Tiles, roots: "Sequence[Array]", arena: Arena) -> Pending:
        """Begin to add up what all tiles have; every rank gets the sum. Collective.

        `roots` are this rank's subtotals, of its part of the tree over the tiles (`Subtotals`);
        they are the arena's, and belong to the sum. It is the sum of a product's layers: the ranks
        stand along k, and what is counted along k is tiles.
        """
        if self.comm is None or self.size == 1:
            return Pending(roots, None, arena)
        *rows, columns = roots[0].shape
        plan = Plan((prod(rows), columns, len(tiles.runs)), (1, 1, self.size), (1, 1, 1))
        segment = max(1, SEGMENT_BYTES // roots[0].itemsize)
        steps = layer_steps(plan, self.rank, segment, everywhere=True, nodes=self.comm.node_map)
        buffers = {f"root{i}": root for i, root in enumerate(roots) if i}
        request = self.comm.irun(steps, {"out": roots[0], **buffers}, name="tensor_sum")
        return Pending(roots, request, arena)

    def combine(self, x: Array, op: str = "sum") -> None:
        """x = the sum or the max of all ranks' x, where the order does not matter. Collective."""
        if self.comm is None or self.size == 1:
            return
        segment = max(1, SEGMENT_BYTES // x.itemsize)
        steps = allreduce(
            self.rank, self.size, x.size, "auto", "out", segment=segment, nodes=self.comm.node_map
        )
        self.comm.run(steps, {"out": x}, op, name=f"tensor_{op}")
