"""SGD, momentum and AdamW, in order of increasing complexity; all in place and elementwise.

Elementwise means that any cut of the weights among ranks gives the same bits. Every parameter is
walked in blocks that stay in cache, so that weights, gradients and state pass through memory once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from hpcpar.device import Array
from hpcpar.optim.config import OptimConfig

__all__ = [
    "SGD",
    "AdamW",
    "Momentum",
    "Optimizer",
    "Updated",
    "make_optimizer",
    "optimizer_bytes",
    "state_arrays",
]

BLOCK = 1 << 15  # elements: 128 KiB of float32, and adamw has six such arrays in hand
EPSILON = 1e-8


class Updated(Protocol):
    """What is updated: a parameter, or consecutive elements of one."""

    @property
    def name(self) -> str:
        """The parameter's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its arrays."""

    @property
    def size(self) -> int:
        """Elements."""

    @property
    def decay(self) -> bool:
        """Whether weight decay applies."""

    @property
    def tied_to(self) -> str | None:
        """The name of the parameter that this is a second use of: it is skipped."""


class Optimizer(ABC):
    """Weights from gradients; a subclass says how, for one block.

    `parameters` may be all of a model's or a rank's share of them; tied uses are skipped. `state`
    maps the name of each kind of state to arrays by parameter, `steps` counts the updates: both are
    all there is to save. `flat_state` has the same arrays in one piece a kind, of `size` elements.
    """

    kinds: tuple[str, ...] = ()  # of state, one array like the weights each

    def __init__(
        self,
        config: OptimConfig,
        parameters: Sequence[Updated],
        xp: ModuleType,
        dtype: Any = np.float32,
    ):
        self.config = config
        self.parameters = [p for p in parameters if p.tied_to is None]
        self.xp = xp
        self.steps = 0
        self.size = sum(p.size for p in self.parameters)
        self.flat_state = {kind: xp.zeros(self.size, dtype) for kind in self.kinds}
        self.state = {kind: self._views(flat) for kind, flat in self.flat_state.items()}
        longest = max((p.size for p in self.parameters), default=0)
        self._block = min(BLOCK, longest) if xp is np else longest
        self._scratch = xp.empty((2, self._block), dtype)

    @property
    def bytes(self) -> int:
        """Of the state, and of the room beside it."""
        return int(self._scratch.nbytes) + sum(int(a.nbytes) for a in self.flat_state.values())

    def update(
        self,
        params: Mapping[str, Array],
        grads: Mapping[str, Array],
        lr: float,
        scale: float = 1.0,
    ) -> None:
        """One step, in place, with the gradients multiplied by `scale` (they stay as they are)."""
        self.steps += 1
        for parameter in self.parameters:
            name = parameter.name
            decay = self.config.weight_decay if parameter.decay else 0.0
            arrays = [params[name], grads[name], *(self.state[kind][name] for kind in self.kinds)]
            weights, gradient, *state = (array.reshape(-1) for array in arrays)
            for start in range(0, parameter.size, self._block):
                block = slice(start, min(start + self._block, parameter.size))
                w, g, *s = (array[block] for array in (weights, gradient, *state))
                scaled, spare = self._scratch[:, : w.size]
                self.xp.multiply(g, scale, out=scaled)
                self._update_block(w, scaled, spare, s, lr, decay)

    def _views(self, flat: Array) -> dict[str, Array]:
        """One buffer for all parameters (large ones lie on huge pages), cut up by name."""
        views, start = {}, 0
        for p in self.parameters:
            views[p.name] = flat[start : start + p.size].reshape(p.shape)
            start += p.size
        return views

    @abstractmethod
    def _update_block(
        self, w: Array, g: Array, spare: Array, state: list[Array], lr: float, decay: float
    ) -> None:
        """Update w and `state`. The scaled gradient g and `spare` may be overwritten; all (n,)."""


class SGD(Optimizer):
    """w -= lr (g + decay w)."""

    def _update_block(
        self, w: Array, g: Array, spare: Array, state: list[Array], lr: float, decay: float
    ) -> None:
        _add_decay(self.xp, w, g, spare, decay)
        self.xp.multiply(g, lr, out=g)
        self.xp.subtract(w, g, out=w)


class Momentum(Optimizer):
    """m = beta m + g + decay w;  w -= lr m (PyTorch's SGD with momentum)."""

    kinds = ("momentum_buffer",)

    def _update_block(
        self, w: Array, g: Array, spare: Array, state: list[Array], lr: float, decay: float
    ) -> None:
        (momentum,) = state
        _add_decay(self.xp, w, g, spare, decay)
        self.xp.multiply(momentum, self.config.betas[0], out=momentum)
        self.xp.add(momentum, g, out=momentum)
        self.xp.multiply(momentum, lr, out=spare)
        self.xp.subtract(w, spare, out=w)


class AdamW(Optimizer):
    """Adam with decay apart from the gradient (Loshchilov and Hutter, arXiv:1711.05101).

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  t = steps;
    w -= lr decay w + lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).
    """

    kinds = ("exp_avg", "exp_avg_sq")

    def _update_block(
        self, w: Array, g: Array, spare: Array, state: list[Array], lr: float, decay: float
    ) -> None:
        xp, (m, v), (b1, b2) = self.xp, state, self.config.betas
        xp.multiply(g, g, out=spare)
        xp.multiply(spare, 1 - b2, out=spare)
        xp.multiply(v, b2, out=v)
        xp.add(v, spare, out=v)
        xp.multiply(g, 1 - b1, out=g)
        xp.multiply(m, b1, out=m)
        xp.add(m, g, out=m)
        if decay:
            xp.multiply(w, 1 - lr * decay, out=w)
        # lr m / c1 / (sqrt(v / c2) + e) with both corrections taken out of the elementwise part
        root = (1 - b2**self.steps) ** 0.5
        xp.sqrt(v, out=spare)
        xp.add(spare, EPSILON * root, out=spare)
        xp.divide(m, spare, out=spare)
        xp.multiply(spare, lr * root / (1 - b1**self.steps), out=spare)
        xp.subtract(w, spare, out=w)


_KINDS: dict[str, type[Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adamw": AdamW}


def _add_decay(xp: ModuleType, w: Array, g: Array, spare: Array, decay: float) -> None:
    """g += decay w."""
    if decay:
        xp.multiply(w, decay, out=spare)
        xp.add(g, spare, out=g)


def optimizer_bytes(config: OptimConfig, sizes: Sequence[int], host: bool = True) -> int:
    """`Optimizer.bytes` for parameters of these sizes, in float32."""
    longest = max(sizes, default=0)
    block = min(BLOCK, longest) if host else longest
    return 4 * (len(_KINDS[config.name].kinds) * sum(sizes) + 2 * block)


def make_optimizer(
    config: OptimConfig, parameters: Sequence[Updated], xp: ModuleType, dtype: Any = np.float32
) -> Optimizer:
    """The optimizer that `config` names, with fresh state; raises `ValueError` for another name."""
    if config.name not in _KINDS:
        raise ValueError(f"optimizer is {config.name!r}; it must be one of {', '.join(_KINDS)}")
    return _KINDS[config.name](config, parameters, xp, dtype)


def state_arrays(config: OptimConfig) -> int:
    """How many arrays as large as the weights it keeps."""
    return len(_KINDS[config.name].kinds)
