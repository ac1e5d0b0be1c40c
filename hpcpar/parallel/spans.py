"""The positions of a sequence, cut into spans that context-parallel ranks share. Pure.

A position attends to those before it, so the last span of a sequence costs the most. Spans are
dealt from both ends, 0, K - 1, 1, K - 2, ..., a run of this row to each rank: then all have the
same to do where each has two or more (Dubey et al., arXiv:2407.21783, section 3.3.2).

What is added up over spans goes by the tree over their places in that row. A rank's run is one
subtree of it, so that the ranks' sums are the next level, however many ranks there are.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

__all__ = ["Spans", "deal_spans"]


@dataclass(frozen=True)
class Spans:
    """The spans of a sequence of `length` positions: `count` of them, as long as each other.

    Attributes: rank, this one of `ranks`; order, the numbers of all spans as they are dealt.
    """

    length: int
    count: int
    rank: int
    ranks: int

    @property
    def width(self) -> int:
        """Positions of a span."""
        return self.length // self.count

    @property
    def each(self) -> int:
        """Spans of a rank."""
        return self.count // self.ranks

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The numbers of all spans, as they are dealt."""
        last = self.count - 1
        return tuple(last - place // 2 if place % 2 else place // 2 for place in range(self.count))

    def of(self, rank: int) -> tuple[int, ...]:
        """The numbers of a rank's spans, in the order in which they lie there."""
        return self.order[rank * self.each : (rank + 1) * self.each]

    @property
    def mine(self) -> tuple[int, ...]:
        """This rank's."""
        return self.of(self.rank)

    def positions(self, number: int) -> slice:
        """Where a span lies in a sequence."""
        return slice(number * self.width, (number + 1) * self.width)

    def attended(self, rank: int, owner: int) -> tuple[int, ...]:
        """The spans of `owner` that positions of `rank` attend to."""
        last = max(self.of(rank))
        return tuple(number for number in self.of(owner) if number <= last)


@lru_cache(maxsize=64)
def deal_spans(length: int, rank: int, ranks: int, tiles: int | None) -> Spans:
    """The spans that `ranks` ranks share.

    With `tiles` there are so many (or the next smaller number that divides the length) for any
    number of ranks; without, as few as give each rank two, or one where the length is not a
    multiple of twice the ranks. Raises ValueError where they cannot be dealt evenly.
    """
    if tiles is None:
        if length % ranks:
            raise ValueError(
                f"{length} positions cannot be cut evenly for {ranks} ranks: take a "
                f"--model.context of {-(-length // ranks) * ranks}"
            )
        twice = ranks > 1 and length % (2 * ranks) == 0
        return Spans(length, 2 * ranks if twice else ranks, rank, ranks)
    count = next(n for n in range(min(tiles, length), 0, -1) if length % n == 0)
    fitting = [n for n in range(1, count + 1) if _subtrees(count, n)]
    if ranks not in fitting:
        raise ValueError(
            f"with --reproducible layout {length} positions are cut into {count} spans, and the "
            f"ranks that share them are {', '.join(map(str, fitting))}: take so many, or other "
            "--parallel.tiles"
        )
    return Spans(length, count, rank, ranks)


def _subtrees(count: int, ranks: int) -> bool:
    """Whether each rank's run of places is one subtree of the tree over all."""
    each, rest = divmod(count, ranks)
    return ranks == 1 or (rest == 0 and each & (each - 1) == 0)
