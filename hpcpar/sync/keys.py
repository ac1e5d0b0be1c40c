"""Which elements of a model the servers and the workers have. Pure.

Servers have slices of all buckets, cut as data-parallel ranks cut them; so have workers, of the
optimizer's state, while it is saved or set.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn import Model
from hpcpar.parallel.buckets import Piece
from hpcpar.parallel.holdings import Holdings

__all__ = ["Keys", "Stretch", "joined", "put", "spread", "taken"]


class Stretch(NamedTuple):
    """Elements of a bucket."""

    bucket: int
    run: range


class Keys:
    """Of a model with its layers as they are trained, for so many servers and workers."""

    def __init__(self, model: Model, servers: int, workers: int) -> None:
        whole = [range(len(model.layers))]
        self.holdings = Holdings(model, whole, 0, 1, servers)
        self._workers = Holdings(model, whole, 0, 1, workers)
        self.servers, self.workers = servers, workers

    @cached_property
    def weights(self) -> list[list[Stretch]]:
        """What each server has of the buckets with weights, one behind the other."""
        return [self._stretches(n, self.holdings.has_weights) for n in range(self.servers)]

    @cached_property
    def gradients(self) -> list[list[Stretch]]:
        """Of all buckets: of tied uses there is a gradient too."""
        every = range(len(self.holdings.buckets))
        return [self._stretches(n, every) for n in range(self.servers)]

    def pieces(self, server: int) -> list[Piece]:
        """The parameters, and parts of some, of which a server has the weights, in their order."""
        buckets = self.holdings.buckets
        return [p for b, run in self.weights[server] for p in buckets[b].pieces(run)]

    def slices(self, worker: int) -> list[Stretch]:
        """The elements with weights that a worker has a slice of."""
        found = [
            Stretch(b, self._workers.buckets[b].slices[worker]) for b in self.holdings.has_weights
        ]
        return [stretch for stretch in found if stretch.run]

    def common(self, server: int, worker: int) -> list[tuple[slice, slice]]:
        """What a server has of a worker's slice: places in the flat weights of both."""
        theirs, at = {}, 0
        for bucket, run in self.slices(worker):
            theirs[bucket] = run, at
            at += len(run)
        found, at = [], 0
        for bucket, run in self.weights[server]:
            other, begin = theirs.get(bucket, (range(0), 0))
            start, stop = max(run.start, other.start), min(run.stop, other.stop)
            if start < stop:
                here = slice(at + start - run.start, at + stop - run.start)
                there = slice(begin + start - other.start, begin + stop - other.start)
                found.append((here, there))
            at += len(run)
        return found

    def _stretches(self, server: int, buckets: Sequence[int]) -> list[Stretch]:
        found = [Stretch(b, self.holdings.buckets[b].slices[server]) for b in buckets]
        return [stretch for stretch in found if stretch.run]


def joined(stretches: Sequence[Stretch], flat: Mapping[int, Array]) -> Array:
    """These elements of flat buckets, one behind the other."""
    parts = [flat[bucket][run.start : run.stop] for bucket, run in stretches]
    xp = namespace(parts[0]) if parts else np
    return xp.concatenate(parts) if parts else np.empty(0, np.float32)


def taken(flat: Array, places: Sequence[slice]) -> Array:
    """What is at these places of a flat array, one behind the other."""
    return namespace(flat).concatenate([flat[:0], *(flat[place] for place in places)])


def put(flat: Array, places: Sequence[slice], values: Array) -> None:
    """What `taken` gave, back to its places."""
    at = 0
    for place in places:
        size = place.stop - place.start
        flat[place] = values[at : at + size]
        at += size


def spread(stretches: Sequence[Stretch], joined: Array, flat: Mapping[int, Array]) -> None:
    """What `joined` gave, back to its places."""
    at = 0
    for bucket, run in stretches:
        flat[bucket][run.start : run.stop] = joined[at : at + len(run)]
        at += len(run)
