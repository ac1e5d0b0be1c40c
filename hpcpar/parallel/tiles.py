"""An axis that tensor-parallel ranks share, cut into tiles. Pure.

A product that is cut along one of its dimensions has other bits than the whole. So under
`reproducible` "layout" every such axis is cut into the same tiles, however many ranks there are: a
rank multiplies tile by tile, and sums over tiles go by the tree over the tiles' numbers.
"""

from dataclasses import dataclass

from hpcpar.schedule.exchange import split

__all__ = ["Tiles", "deal_tiles"]


@dataclass(frozen=True)
class Tiles:
    """The tiles of one axis, a run of them on this rank.

    Attributes: runs, the elements of every tile; mine, the numbers of this rank's tiles.
    """

    runs: tuple[range, ...]
    mine: range

    @property
    def held(self) -> range:
        """The elements that this rank has."""
        return range(self.runs[self.mine[0]].start, self.runs[self.mine[-1]].stop)

    def places(self, groups: int = 1) -> tuple[tuple[slice, ...], ...]:
        """Where each of this rank's tiles lies in an axis of what it holds, `groups` times over.

        >>> deal_tiles("units", 8, 4, 1, 2).places(groups=3)  # queries, keys and values
        ((slice(0, 2), slice(4, 6), slice(8, 10)), (slice(2, 4), slice(6, 8), slice(10, 12)))
        """
        held = self.held
        tops = [group * len(held) - held.start for group in range(groups)]
        tiles = [self.runs[number] for number in self.mine]
        return tuple(tuple(slice(t.start + top, t.stop + top) for top in tops) for t in tiles)

    def cuts(self, groups: int = 1) -> tuple[range, ...]:
        """This rank's tiles of an axis that has all elements `groups` times over."""
        extent, tiles = self.runs[-1].stop, [self.runs[number] for number in self.mine]
        return tuple(
            range(tile.start + group * extent, tile.stop + group * extent)
            for group in range(groups)
            for tile in tiles
        )


def deal_tiles(what: str, extent: int, tiles: int, rank: int, size: int, unit: int = 1) -> Tiles:
    """`extent` units of `unit` elements in `tiles` tiles, dealt to `size` ranks in runs.

    Both by numpy.array_split's rule. No tile is empty: there are at most as many as units. Raises
    ValueError where a rank would have none; `what` says in the plural what the units are.
    """
    count = min(extent, tiles)
    if size > count:
        limit = f"{extent} {what}" if count == extent else f"{tiles} tiles"
        raise ValueError(f"{size} tensor-parallel ranks share {limit}: take at most {count} ranks")
    units = split(extent, count)
    runs = tuple(range(run.start * unit, run.stop * unit) for run in units)
    return Tiles(runs, split(count, size)[rank])
