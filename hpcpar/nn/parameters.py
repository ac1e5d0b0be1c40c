"""What a model's tensors are called, and how they lie in one flat buffer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import ModuleType
from typing import Any, Literal

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.rng import generator

__all__ = ["Cut", "Flat", "Parameter"]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a rank holds of a tensor that ranks share: runs of one axis, one after the other.

    Attributes: shape, of the whole tensor; axis; runs, ascending, none over another.
    """

    shape: tuple[int, ...]
    axis: int
    runs: tuple[range, ...]

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Of the part."""
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return (*before, sum(map(len, self.runs)), *after)

    def take(self, whole: Array) -> Array:
        """The part of a whole tensor; a copy."""
        parts = [whole[self._index(run)] for run in self.runs]
        return namespace(whole).concatenate(parts, axis=self.axis)

    def put(self, part: Array, whole: Array) -> None:
        """Write the part to its place in the whole tensor."""
        at = 0
        for run in self.runs:
            whole[self._index(run)] = part[self._index(range(at, at + len(run)))]
            at += len(run)

    def _index(self, run: range) -> tuple[slice, ...]:
        return (slice(None),) * self.axis + (slice(run.start, run.stop),)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a model, or a second use of one (`tied_to` is then the first use's name).

    `shape` is what this rank holds: the whole tensor, unless there is a `cut`. `drawn_as` is set in
    a copy of another tensor, and names it.
    """

    name: str
    shape: tuple[int, ...]
    init: Literal["zeros", "ones", "normal"] = "zeros"
    std: float = 0.0  # of init="normal"
    tied_to: str | None = None
    cut: Cut | None = None
    drawn_as: str | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The tensor's own shape, however many ranks share it."""
        return self.shape if self.cut is None else self.cut.shape

    def draw(self, seed: int) -> np.ndarray:
        """What this rank holds of it at a run's start: it depends on (seed, name, shape) alone."""
        if self.init != "normal":
            return np.full(self.shape, 1 if self.init == "ones" else 0, np.float32)
        random = generator(seed, "init", self.drawn_as or self.name)
        values = random.standard_normal(self.whole_shape, np.float32)
        values *= np.float32(self.std)
        return values if self.cut is None else self.cut.take(values)

    def apart(self, origin: "Parameter") -> "Parameter":
        """A tied use as a tensor of its own, where what it is tied to is on another rank."""
        return replace(self, init=origin.init, std=origin.std, tied_to=None, drawn_as=origin.name)

    def held(self, cut: Cut) -> "Parameter":
        """The same parameter on a rank that holds a part of it."""
        return replace(self, shape=cut.local_shape, cut=cut)

    @property
    def decay(self) -> bool:
        """Whether weight decay applies: matrices yes; biases and norms no."""
        return len(self.shape) >= 2


class Flat:
    """The layout of a list of parameters in one flat buffer, in their order, without gaps.

        [ parameter | parameter | ... | tied use | ... ]
        <----------- size -----------> (weights)
        <------------------ uses_size -----------------> (gradients)

    Weights need `size` elements: a tied use is another name for the tensor it is tied to. Gradients
    need `uses_size`: each use has a gradient of its own, so that each is summed over the batch by
    itself, and `fold` adds the uses together afterwards, on one rank as on many.

    Raises `ValueError` for two parameters of one name, and for a use tied to nothing or to another
    shape.
    """

    def __init__(self, parameters: Sequence[Parameter], xp: ModuleType, dtype: Any = np.float32):
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.parameters = [p for p in parameters if p.tied_to is None]
        self.tied = [p for p in parameters if p.tied_to is not None]
        self.names = [p.name for p in self.parameters]
        self.size = sum(p.size for p in self.parameters)
        self.uses_size = self.size + sum(p.size for p in self.tied)
        self._check()

    def empty(self) -> Array:
        """A buffer for the weights, (size,), not initialized."""
        return self.xp.empty(self.size, self.dtype)

    def empty_gradients(self) -> Array:
        """A buffer for the gradients of all uses, (uses_size,), not initialized."""
        return self.xp.empty(self.uses_size, self.dtype)

    def params_views(self, flat: Array) -> dict[str, Array]:
        """Every name -> its part of the weights `flat` (size,), shaped; no copies."""
        views = dict(self._cut(flat, self.parameters))
        return views | {use.name: views[use.tied_to] for use in self.tied}  # type: ignore[index]

    def gradient_views(self, flat: Array) -> dict[str, Array]:
        """Every name -> its own part of the gradients `flat` (uses_size,), shaped; no copies."""
        return dict(self._cut(flat, self.parameters + self.tied))

    def fold(self, gradients: dict[str, Array]) -> None:
        """Add the gradient of every tied use to its parameter's, in place, in the list's order."""
        for use in self.tied:
            whole = gradients[use.tied_to]  # type: ignore[index]
            self.xp.add(whole, gradients[use.name], out=whole)

    def initialize(self, flat: Array, seed: int) -> None:
        """Fill the weights `flat`. A tensor's values depend on (seed, its name, its shape) alone.

        They are drawn on the host in float32, whatever the device and the dtype of `flat`.
        """
        views = self.params_views(flat)
        for parameter in self.parameters:
            views[parameter.name][...] = self.xp.asarray(parameter.draw(seed))

    def _cut(self, flat: Array, parts: list[Parameter]) -> Iterator[tuple[str, Array]]:
        needed = sum(p.size for p in parts)
        if flat.shape != (needed,):
            raise ValueError(f"the flat buffer has shape {flat.shape}; it must be ({needed},)")
        start = 0
        for part in parts:
            yield part.name, flat[start : start + part.size].reshape(part.shape)
            start += part.size

    def _check(self) -> None:
        shapes = {p.name: p.shape for p in self.parameters}
        names = self.names + [use.name for use in self.tied]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two parameters are called {twice!r}")
        for use in self.tied:
            if shapes.get(use.tied_to) != use.shape:  # type: ignore[arg-type]
                raise ValueError(
                    f"{use.name} {use.shape} is tied to {use.tied_to}, "
                    f"which has shape {shapes.get(use.tied_to)}"  # type: ignore[arg-type]
                )
