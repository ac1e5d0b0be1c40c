"""Which samples are in the global batch of a step: a pure function of (seed, step)."""

import numpy as np

from hpcpar.rng import generator

__all__ = ["Sampler"]


class Sampler:
    """Deals all samples once per epoch, in an order drawn anew for each epoch.

    The orders of epoch 0, 1, 2, ... stand one behind the other, and step s takes the next `batch`
    samples at s * batch. So a batch may reach into the next epoch, or over several when it is
    larger than the data, and a resumed run needs nothing but the number of its step.

    Args:
        samples: number of samples to draw from.
        batch: samples in a global batch.
        seed: the run's seed.
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        if samples < 1 or batch < 1:
            raise ValueError(f"{samples} samples in batches of {batch}: each must be at least 1")
        self._samples, self._batch, self._seed = samples, batch, seed
        self._orders: dict[int, np.ndarray] = {}  # epoch -> order, of the last two epochs asked for

    def indices(self, step: int) -> np.ndarray:
        """The samples of step 0, 1, 2, ...: int64 (batch,), each below `samples`."""
        epoch, position = self.state(step)
        parts, missing = [], self._batch
        while missing:
            part = self._order(epoch)[position : position + missing]
            parts.append(part)
            missing -= len(part)
            epoch, position = epoch + 1, 0
        return np.concatenate(parts)

    def state(self, step: int) -> tuple[int, int]:
        """The epoch in which the step begins, and how many of its samples were dealt before."""
        if step < 0:
            raise ValueError(f"step is {step}; the first one is 0")
        return divmod(step * self._batch, self._samples)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            order = self._draw(epoch)
            while len(self._orders) >= 2:  # a batch on the border of two epochs needs both
                self._orders.pop(min(self._orders))
            self._orders[epoch] = order
        return order

    def _draw(self, epoch: int) -> np.ndarray:
        return generator(self._seed, "epoch", epoch).permutation(self._samples)
