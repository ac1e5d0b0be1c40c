"""The numbers of a key range: weights, optimizer state, and how a push becomes an update.

A clock's pushes have the roots of the workers' leaves, which are added by the tree over the leaf
numbers: the sum has the bits that it has without servers.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import ml_dtypes
import numpy as np

from hpcpar.device import Array, Device, to_host
from hpcpar.errors import UserError
from hpcpar.nn import Arena
from hpcpar.optim import (
    OptimConfig,
    clip_scale,
    exact_parts,
    learning_rate,
    make_optimizer,
    norm_of,
)
from hpcpar.parallel.blocks import block_sums
from hpcpar.parallel.buckets import Piece
from hpcpar.schedule.tree import subtrees
from hpcpar.sync.keys import Keys, Stretch, put, taken
from hpcpar.sync.shard import Payload
from hpcpar.tree import Subtotals

__all__ = ["KeyRange", "on_the_wire"]


def on_the_wire(array: Array, wire: str) -> np.ndarray:
    """A gradient as it is sent: float32, or the bits of bfloat16."""
    host = to_host(array)
    return host.astype(ml_dtypes.bfloat16).view(np.uint16) if wire == "bf16" else host


class KeyRange:
    """One of them, on a server that has it; all arrays are flat.

    Args:
        leaves: of a step's sum.
        steps: of the run, for the learning rate.
    """

    def __init__(
        self, keys: Keys, number: int, config: OptimConfig, leaves: int, steps: int, device: Device
    ) -> None:
        self._keys, self._number, self._config = keys, number, config
        self._leaves, self._steps, self._device = leaves, steps, device
        xp = device.xp
        pieces = keys.pieces(number)
        self.optimizer = make_optimizer(config, pieces, xp)
        self._weights: Array = xp.empty(sum(piece.size for piece in pieces), np.float32)
        self._params = _by_name(pieces, self._weights)
        size = sum(len(run) for _, run in keys.gradients[number])
        self._arena = Arena(xp)
        self._gradient: Array = xp.empty(size, np.float32)
        self._sums = Subtotals(leaves, self._gradient, self._arena)

    # Of clocks that are complete.

    def total(self, pushes: Sequence[Payload]) -> list[float]:
        """Add up the roots of all workers; what this range adds to the norm."""
        for push in pushes:
            start, stop = push.words["leaves"]
            for node, array in zip(subtrees(start, stop, self._leaves), push.arrays, strict=True):
                self._sums.add_root(node, self._received(array))
        (total,) = self._sums.take(range(self._leaves))
        self._keep(total)
        found: list[float] = []
        for piece, gradient in self._own():
            found += block_sums(piece.parameter, gradient, piece.run)
        return exact_parts(found)

    def apply(self, clock: int, pushes: Sequence[Payload], parts: Sequence[Any]) -> Any:
        """One update with what was added up; the first range tells of it."""
        norm = norm_of([part for of_range in parts for part in of_range])
        if not isfinite(norm):
            raise UserError(f"step {clock}: the gradient's norm is {norm}; lower --optim.lr")
        rate = learning_rate(self._config, clock - 1, self._steps)
        self._update(rate, clip_scale(norm, self._config.clip))
        if self._number:
            return None
        losses = [pair for push in pushes for pair in push.words["losses"]]
        return {"step": clock, "losses": losses, "norm": norm, "rate": rate}

    # Of pushes one by one.

    def apply_one(self, push: Payload) -> Any:
        """One update with a worker's roots alone, scaled as it says."""
        roots = [self._received(array) for array in push.arrays]
        if not roots:  # a worker without leaves
            return None
        for root in roots[1:]:
            self._device.xp.add(roots[0], root, out=roots[0])
        self._keep(roots[0])
        self._arena.give(*roots[1:])
        words = push.words
        rate = learning_rate(self._config, words["clock"] - 1, self._steps)
        self._update(rate, words["scale"])
        if self._number:
            return None
        told = {key: words[key] for key in ("losses", "norm")}
        return {"step": words["clock"], "rate": rate, **told}

    # The state.

    def weights(self) -> list[Array]:
        """As they are now."""
        return [self._weights]

    def load(self, words: Mapping[str, Any], arrays: Sequence[Any]) -> None:
        """What a worker has of the first state: weights, then each kind of the optimizer's."""
        for flat, given in zip(self.state(), arrays, strict=True):
            put(flat, self._places(words["worker"]), self._device.asarray(given))
        self.optimizer.steps = words["clock"]

    def fetch(self, words: Mapping[str, Any]) -> list[Array]:
        """The optimizer's state of a worker's slice, by kind."""
        places = self._places(words["worker"])
        return [taken(flat, places) for flat in self.optimizer.flat_state.values()]

    def _places(self, worker: int) -> list[slice]:
        return [here for here, _ in self._keys.common(self._number, worker)]

    def state(self) -> list[Array]:
        """Weights, then each kind of the optimizer's state."""
        return [self._weights, *self.optimizer.flat_state.values()]

    def set_state(self, clock: int, arrays: Sequence[Any]) -> None:
        """What `state` gave, after so many updates."""
        for flat, given in zip(self.state(), arrays, strict=True):
            flat[...] = self._device.asarray(given)
        self.optimizer.steps = clock

    def _received(self, array: np.ndarray) -> Array:
        """A root, in an array of its own: what came may be needed again."""
        if array.dtype == np.uint16:
            array = array.view(ml_dtypes.bfloat16)
        own = self._sums.buffer()
        own[...] = self._device.asarray(array.astype(np.float32, copy=False))
        return own

    def _keep(self, total: Array) -> None:
        """The gradient of an update; those of tied uses go to their parameters'."""
        self._gradient[...] = total
        self._arena.give(total)
        buckets = self._split(self._keys.gradients[self._number], self._gradient)
        for tie in self._keys.holdings.ties:
            if tie.bucket in buckets:
                own = buckets[tie.bucket]
                self._device.xp.add(own, buckets[tie.other], out=own)

    def _update(self, rate: float, scale: float) -> None:
        gradients = {piece.name: gradient for piece, gradient in self._own()}
        self.optimizer.update(self._params, gradients, rate, scale)

    def _own(self) -> list[tuple[Piece, Array]]:
        """Each piece, and its gradient."""
        buckets = self._split(self._keys.gradients[self._number], self._gradient)
        found = []
        for bucket, run in self._keys.weights[self._number]:
            for piece in self._keys.holdings.buckets[bucket].pieces(run):
                start = piece.at - run.start
                found.append((piece, buckets[bucket][start : start + piece.size]))
        return found

    @staticmethod
    def _split(stretches: Sequence[Stretch], flat: Array) -> dict[int, Array]:
        found, at = {}, 0
        for bucket, run in stretches:
            found[bucket] = flat[at : at + len(run)]
            at += len(run)
        return found


def _by_name(pieces: Sequence[Piece], flat: Array) -> dict[str, Array]:
    found, at = {}, 0
    for piece in pieces:
        found[piece.name] = flat[at : at + piece.size]
        at += piece.size
    return found
