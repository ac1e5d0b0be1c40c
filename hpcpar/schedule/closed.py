"""The pricer's answers in closed form, for more ranks than one cares to simulate.

Hockney's model, latency + bytes / bandwidth for a message (Hockney, "The communication challenge
for MPP", 1994), with the sums of Thakur, Rabenseifner and Gropp, "Optimization of collective
communication operations in MPICH", 2005, section 4. They equal `price` where every array is cut
evenly and no message is cut into pieces.
"""

from hpcpar.schedule.price import Link, Network

__all__ = ["closed_allreduce"]


def closed_allreduce(
    algorithm: str, ranks: int, size: int, network: Network, *, local: int | None = None
) -> float:
    """Seconds of an allreduce of `size` bytes.

    Args:
        algorithm: ring, direct, halving (a power of two of ranks), or hierarchical (a power of two
            of nodes, and of ranks on each).
        ranks: any number, 16,384 as well as 8.
        size: bytes of the array on each rank.
        network: ring, direct and halving take its links inside a node; for ranks that are alone
            on their nodes pass a network with the other links there.
        local: ranks of a node, for hierarchical.

    The processor's time for a message or for receiving does not count. Raises ValueError for an
    algorithm or number that the formulas are not for.
    """
    if algorithm == "ring":
        part = size / ranks
        there = _hop(network.inside, part) + part * network.combine
        return (ranks - 1) * (there + _hop(network.inside, part))
    if algorithm == "direct":
        return _scatter(network, ranks, size) + _gather(network, ranks, size)
    if algorithm == "halving":
        return _halving(network.inside, network.combine, ranks, size)
    subtree = local is not None and local & (local - 1) == 0 and ranks % local == 0
    if algorithm == "hierarchical" and local and subtree and network.between:
        inside = _scatter(network, local, size) + _gather(network, local, size)
        # The ranks of a node share its link, and each adds up a slice.
        rate = network.combine / local
        return inside + _halving(network.between, rate, ranks // local, size)
    raise ValueError(f"no formula for {algorithm!r} on {ranks} ranks, {local} on a node")


def _hop(link: Link, size: float) -> float:
    return link.latency + size / link.bandwidth


def _scatter(network: Network, ranks: int, size: float) -> float:
    """Each gets its slice of everybody's and adds it up."""
    return _gather(network, ranks, size) + (ranks - 1) * size / ranks * network.combine


def _gather(network: Network, ranks: int, size: float) -> float:
    return _hop(network.inside, (ranks - 1) * size / ranks) if ranks > 1 else 0.0


def _halving(link: Link, combine: float, ranks: int, size: float) -> float:
    if ranks & (ranks - 1):
        raise ValueError(f"no formula for halving among {ranks}: not a power of two")
    halves = [size / (1 << k) for k in range(1, ranks.bit_length())]
    return sum(2 * _hop(link, half) + half * combine for half in halves)
