"""Backup in memory: what only one rank holds also lies on a partner, on another node if it can.

A rank updates some elements of the weights (a ZeRO slice, a stage, tensor parts). Where no other
rank updates the same ones, its partner keeps a copy of them and of their optimizer state. The copy
costs no state on the wire: the rank sends the partner its reduced gradient, and the partner does
the same update, which is deterministic, so that the copies have the same bits.

A step is: reduce, `exchange`, vote, update. Nobody updates before all have voted, so all ranks that
are left stand after the same step, and what was lost stands there too, on the partner.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.comm import agree
from hpcpar.device import Array
from hpcpar.optim import OptimConfig, Optimizer, make_optimizer
from hpcpar.parallel.parts import Part
from hpcpar.parallel.state import updated

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["Backup", "Copies", "partners"]


def partners(nodes: Sequence[int]) -> list[int]:
    """Who keeps each rank's copy, from the node of every rank: another one, as few on its node.

    Each rank keeps one copy. Two ranks that keep each other's cannot both be lost; in a ring of
    three or more, one more rank can be.
    """
    order = sorted(range(len(nodes)), key=lambda rank: (nodes[rank], rank))

    def apart(shift: int) -> int:
        turned = order[shift:] + order[:shift]
        return sum(nodes[a] != nodes[b] for a, b in zip(order, turned, strict=True))

    shift = max(range(1, len(nodes)), key=lambda shift: (apart(shift), -shift))
    keepers = order[shift:] + order[:shift]
    return [keeper for _, keeper in sorted(zip(order, keepers, strict=True))]


@dataclass(frozen=True)
class _Copied:
    """Elements of another rank, as an optimizer takes them."""

    part: Part
    decay: bool
    tied_to: None = None

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def size(self) -> int:
        return len(self.part.run)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)


class Copies:
    """What another rank updates: weights, optimizer, room for its gradient.

    Args:
        told: its parts, each with whether weight decay applies, as JSON.
    """

    def __init__(self, told: str, config: OptimConfig, xp: Any) -> None:
        self._copied = [
            _Copied(Part.from_json(fields), decay) for fields, decay in json.loads(told)
        ]
        self.optimizer: Optimizer = make_optimizer(config, self._copied, xp)
        self.weights, self.gradient = xp.empty((2, self.size), np.float32)

    @property
    def size(self) -> int:
        """Elements."""
        return sum(copied.size for copied in self._copied)

    @property
    def flats(self) -> dict[str, Array]:
        """The weights, and each kind of state, in one piece."""
        return {"weights": self.weights, **self.optimizer.flat_state}

    def update(self, rate: float, scale: float) -> None:
        """The update that the other rank does."""
        self.optimizer.update(self._views(self.weights), self._views(self.gradient), rate, scale)

    def parts(self) -> Iterator[tuple[Part, Mapping[str, Array]]]:
        """What there is, part by part, by kind."""
        views = {kind: self._views(flat) for kind, flat in self.flats.items()}
        for copied in self._copied:
            yield copied.part, {kind: named[copied.name] for kind, named in views.items()}

    def _views(self, flat: Array) -> dict[str, Array]:
        views, start = {}, 0
        for copied in self._copied:
            views[copied.name] = flat[start : start + copied.size]
            start += copied.size
        return views


class Backup:
    """A rank's part in the backup of a model. Collective, like everything below.

    Attributes: partner, of this rank, and ward, the rank whose copy is kept here; both None where
    the ranks have copies of everything as it is.
    """

    def __init__(self, model: "ParallelModel", config: OptimConfig) -> None:
        self._model, self._comm = model, model.comm
        self.partner: int | None = None
        self.ward: int | None = None
        self.copies: Copies | None = None
        if model.comm.size == 1 or not _alone(model):
            return
        keepers = partners(model.comm.node_map or (0,) * model.comm.size)
        self.partner, self.ward = keepers[model.comm.rank], keepers.index(model.comm.rank)
        own, xp = list(updated(model)), model.comm.device.xp
        decays = [piece.decay for piece, _, _ in model.update.updated()]
        told = agree(model.comm, json.dumps([
            (part.to_json(), decay) for (part, _), decay in zip(own, decays, strict=True)
        ]))  # fmt: skip
        self.copies = Copies(told[self.ward] or "[]", config, xp)
        self._room = xp.empty(sum(len(part.run) for part, _ in own), np.float32)
        for kind, flat in self.copies.flats.items():
            self._send([arrays[kind] for _, arrays in own], flat)
        self.copies.optimizer.steps = model.update.optimizer.steps

    @property
    def bytes(self) -> int:
        """On this rank, for another."""
        if self.copies is None:
            return 0
        flats = self.copies.weights, self.copies.gradient, self._room
        return self.copies.optimizer.bytes + sum(int(flat.nbytes) for flat in flats)

    def exchange(self) -> None:
        """The reduced gradient goes to the partner. Collective."""
        if self.copies is not None:
            with self._model.timeline.on("communication", "backup"):
                mine = [gradient for _, _, gradient in self._model.update.updated()]
                self._send(mine, self.copies.gradient)

    def update(self, rate: float, scale: float) -> None:
        """What the other rank does in this step, here."""
        if self.copies is not None:
            with self._model.timeline.on("compute", "backup"):
                self.copies.update(rate, scale)

    def parts(self) -> list[tuple[Part, Mapping[str, Array]]]:
        """All that lies here and stands after the last update, this rank's own first."""
        own = list(updated(self._model))
        return own + ([] if self.copies is None else list(self.copies.parts()))

    def _send(self, arrays: Sequence[Array], into: Array) -> None:
        """Own arrays to the partner, those of the other rank into `into`."""
        assert self.partner is not None and self.ward is not None
        start = 0
        for array in arrays:
            self._room[start : start + array.size] = array
            start += array.size
        self._comm.sendrecv(self._room, self.partner, into, self.ward)


def _alone(model: "ParallelModel") -> bool:
    """Whether there may be elements that one rank alone updates."""
    axes = model.axes
    copies = axes.context_size * (axes.data_size if axes.parallel.zero == 0 else 1)
    return copies == 1
