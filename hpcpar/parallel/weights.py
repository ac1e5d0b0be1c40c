"""The parameters of a rank's layers: all of them, or slices that are gathered layer by layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.nn.model import Tensors
from hpcpar.parallel.holdings import Holdings, views
from hpcpar.parallel.shared_buckets import shared_buckets
from hpcpar.schedule.ring import ring_gather_slices
from hpcpar.schedule.shared_tree import shared_gather_slices

if TYPE_CHECKING:
    from types import ModuleType

    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["GatheredWeights", "Weights", "WholeWeights"]


class Weights(ABC):
    """What both have in common.

    Tell in which order layers will be used (`begin`), then `take` the parameters of one after the
    other and `give` them back.

    Args:
        comm: the data-parallel ranks; None for one.

    Attributes: flat, by bucket, what is held of it; travel, whether `take` has to wait for others.
    """

    travel = False

    def __init__(self, holdings: Holdings, comm: "Communicator | None", xp: "ModuleType") -> None:
        self.holdings, self.comm, self.xp = holdings, comm, xp
        self.rank = 0 if comm is None else comm.rank
        self.flat: dict[int, Array] = {}

    @property
    def gathered_bytes(self) -> int:
        """Of parameters that are held for a while only."""
        return 0

    @abstractmethod
    def run(self, bucket: int) -> range:
        """The elements of a bucket that are held."""

    @abstractmethod
    def begin(self, visits: Sequence[int]) -> None:
        """The layers that are going to be used, in this order."""

    @abstractmethod
    def take(self, layer: int) -> Tensors:
        """The parameters of a layer by name, until they are given back."""

    @abstractmethod
    def give(self, layer: int) -> None:
        """A layer is done with them."""

    @abstractmethod
    def updated(self) -> None:
        """The own slices were changed: the others shall see it. Collective."""

    def part(self, bucket: int, run: range) -> Array:
        """Elements that are held."""
        start = self.run(bucket).start
        return self.flat[bucket][run.start - start : run.stop - start]


class WholeWeights(Weights):
    """Every rank has all parameters of its layers; after an update slices are exchanged.

    On one node they lie where the other ranks can read them, and copy what is not theirs.
    """

    def __init__(
        self, holdings: Holdings, comm: "Communicator | None", xp: "ModuleType", sliced: bool = True
    ) -> None:
        """Collective. `sliced`: whether ranks update slices, which the others then need."""
        super().__init__(holdings, comm, xp)
        sizes = [holdings.buckets[number].size for number in holdings.has_weights]
        shared = shared_buckets(comm, sizes) if comm is not None and sliced else None
        self._shared = dict(zip(holdings.has_weights, shared or (), strict=False))
        for number, size in zip(holdings.has_weights, sizes, strict=True):
            own = self._shared.get(number)
            self.flat[number] = xp.empty(size, np.float32) if own is None else own.local
        found = {i: views(holdings.buckets[i], flat) for i, flat in self.flat.items()}
        self._params = [
            holdings.names_in(layer, [found[i] for i in numbers])
            for layer, numbers in enumerate(holdings.weights_of)
        ]

    def run(self, bucket: int) -> range:
        return range(self.holdings.buckets[bucket].size)

    def begin(self, visits: Sequence[int]) -> None:
        """They are all there."""

    def take(self, layer: int) -> Tensors:
        return self._params[layer]

    def give(self, layer: int) -> None:
        """They stay."""

    def updated(self) -> None:
        if self.comm is None:
            return
        requests = []
        for number in self.holdings.updated:
            shared, slices = self._shared.get(number), self.holdings.buckets[number].slices
            if shared is not None:
                steps = shared_gather_slices(self.rank, slices)
            else:
                steps = ring_gather_slices(self.rank, slices)
            out = {"out": self.flat[number] if shared is None else shared}
            requests.append(self.comm.irun(steps, out, name="share_weights"))
        for request in requests:
            request.wait()


class GatheredWeights(Weights):
    """Each rank has a slice of every bucket (ZeRO 3); a layer's are gathered, one layer ahead."""

    travel = True

    def __init__(self, holdings: Holdings, comm: "Communicator", xp: "ModuleType") -> None:
        super().__init__(holdings, comm, xp)
        self._arena = Arena(xp)
        for number in holdings.has_weights:
            self.flat[number] = xp.empty(len(self.run(number)), np.float32)
        self._visits: Iterator[int] = iter(())
        self._ahead: tuple[int, list[tuple[Request, Array]]] | None = None
        self._lent: list[list[Array]] = []

    @property
    def gathered_bytes(self) -> int:
        return self._arena.bytes

    def run(self, bucket: int) -> range:
        return self.holdings.buckets[bucket].slices[self.rank]

    def begin(self, visits: Sequence[int]) -> None:
        self._visits = iter(visits)
        self._gather()

    def take(self, layer: int) -> Tensors:
        assert self._ahead is not None and self._ahead[0] == layer, "layers in another order"
        _, gathering = self._ahead
        self._gather()
        arrays = []
        for request, whole in gathering:
            request.wait()
            arrays.append(whole)
        self._lent.append(arrays)
        numbers = self.holdings.weights_of[layer]
        return self.holdings.names_in(
            layer,
            [
                views(self.holdings.buckets[number], whole)
                for number, whole in zip(numbers, arrays, strict=True)
            ],
        )

    def give(self, layer: int) -> None:
        self._arena.give(self._lent.pop(0))

    def updated(self) -> None:
        """They are gathered when a layer needs them."""

    def _gather(self) -> None:
        """Start to bring together what the next visit needs."""
        layer = next(self._visits, None)
        self._ahead = None
        if layer is None:
            return
        assert self.comm is not None
        gathering = []
        for number in self.holdings.weights_of[layer]:
            bucket, mine = self.holdings.buckets[number], self.run(number)
            whole = self._arena.take((bucket.size,), np.float32)
            whole[mine.start : mine.stop] = self.flat[number]
            steps = ring_gather_slices(self.rank, bucket.slices)
            request = self.comm.irun(steps, {"out": whole}, name="gather_weights")
            gathering.append((request, whole))
        self._ahead = layer, gathering
