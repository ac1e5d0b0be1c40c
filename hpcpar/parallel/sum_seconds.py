"""How long ranks wait for sums of gradients and for parameters: what no arithmetic hides. Pure."""

from collections.abc import Iterable, Sequence

from hpcpar.parallel.costs import LayerSeconds
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.link import ITEM, Link
from hpcpar.schedule.shape import roots

__all__ = ["exposed_seconds"]


def exposed_seconds(
    layout: Layout,
    holdings: Holdings,
    layers: Sequence[LayerSeconds],
    figures: Figures,
    rank: int,
) -> float:
    """Seconds of a step in which a rank waits for what is on its way.

    Args:
        layers: seconds of every layer of the model.
        rank: on the data axis.

    Where messages travel while ranks compute, a sum is hidden as far as there is backward left to
    compute. Where the ranks' processors copy them, nothing is.
    """
    zero, total = layout.parallel.zero if layout.data > 1 else 0, 0.0
    link, small = _DataLink(layout, figures), 2 * (layout.ranks - 1).bit_length()
    numbers = [i for run in map(holdings.every.__getitem__, holdings.stages) for i in run]
    computing = [layers[i] for i in numbers]
    sizes = [sum(holdings.buckets[i].size for i in of) for of in holdings.gradients_of]
    counts = [len(of) for of in holdings.gradients_of]
    if layout.data > 1:
        if zero >= 2:
            sums = [link.gather(size, n) for size, n in zip(sizes, counts, strict=True)]
            rounds = sum(slot.ends for slot in layout.slots[rank])
            between = len(layout.slots[rank]) / rounds * sum(one.backward for one in computing)
            hidden = between if figures.overlap else 0.0
            total += (rounds - 1) * max(0.0, sum(sums) - hidden)
        else:
            sums = [link.sum(size, n, rank) for size, n in zip(sizes, counts, strict=True)]
        total += _tail(sums, computing, figures.overlap)
        held = sum(holdings.buckets[i].size for i in holdings.updated)
        if zero in (1, 2):
            total += link.gather(held, len(holdings.updated))
        if zero == 3:
            total += len(layout.slots[rank]) * _gathers(holdings, computing, link, figures.overlap)
    if layout.context > 1:
        total += _context_sums(layout, sizes, computing, figures)
    for tie in holdings.ties:
        if tie.home != tie.away:
            size = holdings.buckets[tie.bucket].size
            total += 2 * figures.latency + 2 * ITEM * size / figures.bandwidth
    return total + small * figures.latency


class _DataLink(Link):
    """Among the data-parallel ranks, which have several roots each."""

    def __init__(self, layout: Layout, figures: Figures) -> None:
        super().__init__(layout.data, figures)
        self._whole = layout.parallel.zero == 0
        leaves = len(layout.leaves)
        self._roots = [roots(run.start, run.stop, leaves) for run in layout.runs]

    def sum(self, size: int, messages: int, rank: int) -> float:
        """Roots that meet: all get slices of all, and add them up; without ZeRO all get the sum."""
        ranks, every = self.ranks, sum(self._roots)
        own = self._roots[rank]
        elements = max(own * (ranks - 1), every - own) * size / ranks
        adding = ITEM * (every - 1) * size / ranks * self.figures.combine
        shared = self.gather(size, messages) if self._whole else 0.0
        return self.travel(elements, messages) + adding + shared


def _context_sums(
    layout: Layout, sizes: Sequence[int], computing: Sequence[LayerSeconds], figures: Figures
) -> float:
    """Sums over the context ranks: at the end of a step, or of each micro-batch as it goes."""
    link = Link(layout.context, figures)
    if not layout.at_once:
        shared = layout.data if layout.parallel.zero and layout.data > 1 else 1
        return sum(link.allreduce(size / shared) for size in sizes)
    sums, micros = [link.allreduce(size) for size in sizes], len(layout.slots[0])
    between = sum(one.total for one in computing) if figures.overlap else 0.0
    return (micros - 1) * max(0.0, sum(sums) - between) + _tail(sums, computing, figures.overlap)


def _tail(sums: Iterable[float], layers: Sequence[LayerSeconds], overlap: bool) -> float:
    """What is left of the sums when the last backward is over, layer by layer from the last."""
    if not overlap:
        return sum(sums)
    clock = free = 0.0
    for one, seconds in zip(reversed(layers), reversed([*sums]), strict=True):
        clock += one.backward
        free = max(free, clock) + seconds
    return free - clock


def _gathers(
    holdings: Holdings, layers: Sequence[LayerSeconds], link: _DataLink, overlap: bool
) -> float:
    """What a micro-batch waits for parameters, in forward and in backward, one layer ahead."""
    total = 0.0
    for one, of in zip(layers, holdings.weights_of, strict=True):
        seconds = link.gather(sum(holdings.buckets[i].size for i in of), len(of))
        for computing in (one.forward, one.backward):
            total += max(0.0, seconds - computing) if overlap else seconds
    return total
