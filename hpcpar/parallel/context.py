"""The ranks that share the positions of every sequence: the context axis of a mesh."""

from typing import TYPE_CHECKING

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena
from hpcpar.parallel.place import Place, place_of
from hpcpar.parallel.spans import deal_spans
from hpcpar.parallel.timeline import Timeline
from hpcpar.schedule.steps import Step
from hpcpar.schedule.tree import deal, tree_allreduce_in_place

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["Context", "context_sum_steps", "start_context_sum"]


class Context:
    """What a rank has of sequences of `length` tokens: the spans of `deal_spans`.

    An array of all tokens is (B, T), or (B, T, C). What a rank has of it is (s B, T / K), or
    (s B, T / K, C): its s spans of the K, one after the other, each of all B sequences.

    Args:
        ranks: those along the axis; None where there is one, a place in a plan.
        tiles: see `deal_spans`, which raises ValueError.
        timeline: told of the time in which layers wait for other ranks.
    """

    def __init__(
        self,
        ranks: "Communicator | Place | None" = None,
        length: int = 1,
        tiles: int | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        place = place_of(ranks)
        self.comm, self.timeline = place.comm, timeline or Timeline()
        self.spans = deal_spans(length, place.rank, place.size, tiles)

    def take(self, whole: Array, arena: Arena) -> Array:
        """`cut` of an array that the arena has lent, in its place."""
        if self.spans.count == 1:
            return whole
        part = arena.copy(self.cut(whole))
        arena.give(whole)
        return part

    def cut(self, whole: Array) -> Array:
        """This rank's part of an array of tokens (B, T). Raises ValueError for another length."""
        if self.spans.count == 1:
            return whole
        if whole.shape[1] != self.spans.length:
            raise ValueError(
                f"a sequence has {whole.shape[1]} tokens; ranks share spans of {self.spans.length}"
            )
        parts = [whole[:, self.spans.positions(number)] for number in self.spans.mine]
        return namespace(whole).concatenate(parts)

    def length(self, part: Array) -> int:
        """Tokens of a whole sequence, of which `part` is this rank's."""
        return part.shape[1] if self.spans.count == 1 else self.spans.length

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a rank's part of an array (B, T, ...)."""
        if self.spans.count == 1:
            return shape
        return (shape[0] * self.spans.each, self.spans.width, *shape[2:])

    def rows(self, count: int) -> list[slice]:
        """The rows of each span, where a rank has `count` in all."""
        step = count // self.spans.each
        return [slice(start, start + step) for start in range(0, count, step)]


def start_context_sum(comm: "Communicator", array: Array) -> "Request":
    """Begin to add up what all ranks have of an array, in place, by the tree over the ranks."""
    steps = context_sum_steps(comm.rank, comm.size, array.size, comm.node_map)
    return comm.irun(steps, {"out": array}, name="context_sum")


def context_sum_steps(
    rank: int, size: int, count: int, nodes: tuple[int, ...] | None
) -> tuple[Step, ...]:
    """What a rank does in the sum of an array of `count` elements: each rank is a leaf."""
    return tree_allreduce_in_place(rank, count, tuple(deal(size, size)), size, nodes)
