"""The gradient of a worker's own samples, and its norm: where each worker goes its own way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpcpar.device import Array
from hpcpar.optim import exact_parts, norm_of
from hpcpar.parallel.blocks import block_sums
from hpcpar.parallel.run_roots import RunRoots

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["own_gradient", "own_norm"]


def own_gradient(model: "ParallelModel", roots: Sequence[RunRoots]) -> dict[int, Array]:
    """The sum of the roots of this worker's leaves, by bucket with weights, those of ties added."""
    totals: list[Array] = [sum(total.roots[1:], total.roots[0]) for total in roots]
    for tie in model.holdings.ties:
        totals[tie.bucket] = totals[tie.bucket] + totals[tie.other]
    return {number: totals[number] for number in model.holdings.has_weights}


def own_norm(model: "ParallelModel", totals: dict[int, Array]) -> float:
    """Its 2-norm."""
    found: list[float] = []
    for number, total in totals.items():
        for piece in model.holdings.buckets[number].pieces():
            found += block_sums(piece.parameter, total[piece.at : piece.at + piece.size], piece.run)
    return norm_of(exact_parts(found))
