"""Gradients are summed, and parameters gathered, in buckets: those of a layer together. Pure.

Each data-parallel rank owns a slice of every bucket (ZeRO, Rajbhandari et al., arXiv:1910.02054):
cut where blocks of the norm end, so that the rank that has a slice can add up its squares.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from hpcpar.nn import Cut, Parameter
from hpcpar.parallel.blocks import block_ends

__all__ = ["Bucket", "Piece", "layer_buckets"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive elements of one parameter, in the order of C.

    Attributes: parameter; run, of its elements; at, where it begins in its bucket. `name`, `size`,
    `shape`, `decay` and `tied_to` are what an optimizer asks of a parameter.
    """

    parameter: Parameter
    run: range
    at: int

    @property
    def name(self) -> str:
        """The parameter's."""
        return self.parameter.name

    @property
    def size(self) -> int:
        """Elements."""
        return len(self.run)

    @property
    def shape(self) -> tuple[int, ...]:
        """Flat."""
        return (len(self.run),)

    @property
    def decay(self) -> bool:
        """The parameter's."""
        return self.parameter.decay

    @property
    def tied_to(self) -> None:
        """An optimizer's parameters are none of them tied."""
        return


@dataclass(frozen=True)
class Bucket:
    """Parameters of one layer, one after the other in a flat buffer.

    Attributes: parameters; slices, of the elements of the buffer, one for each data-parallel rank.
    """

    parameters: tuple[Parameter, ...]
    slices: tuple[range, ...]

    @cached_property
    def size(self) -> int:
        """Elements."""
        return sum(parameter.size for parameter in self.parameters)

    @cached_property
    def places(self) -> list[tuple[str, slice, tuple[int, ...]]]:
        """Name, place in the buffer and shape of every parameter."""
        return [
            (piece.name, slice(piece.at, piece.at + piece.size), piece.parameter.shape)
            for piece in self.pieces()
        ]

    def pieces(self, run: range | None = None) -> list[Piece]:
        """The parts of the parameters that lie in a run of elements; None is all."""
        run = range(self.size) if run is None else run
        found, offset = [], 0
        for parameter in self.parameters:
            first, last = max(run.start - offset, 0), min(run.stop - offset, parameter.size)
            if first < last:
                found.append(Piece(parameter, range(first, last), offset + first))
            offset += parameter.size
        return found


def layer_buckets(
    parameters: Sequence[Parameter], apart: Collection[str], ranks: int
) -> list[Bucket]:
    """The buckets of a layer: one; but parameters named in `apart` are by themselves.

    Those are used in two places, whose gradients are added up: so they are cut alike.
    """
    return [
        Bucket(tuple(group), _slices(tuple((p.shape, p.cut) for p in group), ranks))
        for group in _groups(parameters, apart)
    ]


def _groups(parameters: Sequence[Parameter], apart: Collection[str]) -> Iterator[list[Parameter]]:
    group: list[Parameter] = []
    for parameter in parameters:
        if parameter.name in apart:
            if group:
                yield group
            yield [parameter]
            group = []
        else:
            group.append(parameter)
    if group:
        yield group


@lru_cache(maxsize=256)  # most layers of a model are alike
def _slices(parts: tuple[tuple[tuple[int, ...], Cut | None], ...], ranks: int) -> tuple[range, ...]:
    """As even as the ends of the norm's blocks allow; `parts` are shapes and cuts."""
    ends = [0]
    for shape, cut in parts:
        start = ends[-1]
        ends += [start + end for end in block_ends(shape, cut)]
    cuts = [_nearest(ends, rank * ends[-1] / ranks) for rank in range(ranks + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(cuts))


def _nearest(ends: Sequence[int], place: float) -> int:
    after = bisect_left(ends, place)
    return min(ends[max(0, after - 1) : after + 1], key=lambda end: abs(end - place))
