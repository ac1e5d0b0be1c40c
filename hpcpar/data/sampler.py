"""Which samples are in a step: a pure function of the seed, and of where in the data it begins."""

from dataclasses import dataclass

import numpy as np

from hpcpar.rng import generator

__all__ = ["Course", "Sampler"]


@dataclass(frozen=True)
class Course:
    """Which batches the steps of a run take, from a step on.

    Attributes: step, of which the others are told; used, the batches that the steps up to it have
    taken; each, the batches that every later step takes. By sample that is one batch a step, and
    by batch (`--data.partition batch`) one for each data-parallel rank that there is.
    """

    step: int = 0
    used: int = 0
    each: int = 1

    @classmethod
    def resumed(cls, step: int, state: tuple[int, int], samples: int, batch: int) -> "Course":
        """Where a run goes on after `step`, by its `Sampler.state` then, on any number of ranks."""
        epoch, position = state
        return cls(step, (epoch * samples + position) // batch)

    def before(self, step: int) -> int:
        """The batches that the steps up to this one have taken."""
        return self.used + (step - self.step) * self.each


class Sampler:
    """Deals all samples once per epoch, in an order drawn anew for each epoch.

    The orders of epoch 0, 1, 2, ... stand one behind the other and are cut into batches, which are
    taken one after the other. So a batch may reach into the next epoch, or over several when it is
    larger than the data, and a resumed run needs to know nothing but how many were taken: whatever
    number of ranks goes on, each sample is used once an epoch.

    Args:
        samples: number of samples to draw from.
        batch: samples in a batch.
        seed: the run's seed.
        course: which batches a step takes.
    """

    def __init__(self, samples: int, batch: int, seed: int, course: Course | None = None) -> None:
        if samples < 1 or batch < 1:
            raise ValueError(f"{samples} samples in batches of {batch}: each must be at least 1")
        self._samples, self._batch, self._seed = samples, batch, seed
        self.course = course or Course()
        self._orders: dict[int, np.ndarray] = {}  # epoch -> order, of the last two epochs asked for

    def indices(self, step: int) -> np.ndarray:
        """What comes after so many steps: int64 (batches of the step * batch,), below `samples`."""
        epoch, position = self.state(step)
        parts, missing = [], self.course.each * self._batch
        while missing:
            part = self._order(epoch)[position : position + missing]
            parts.append(part)
            missing -= len(part)
            epoch, position = epoch + 1, 0
        return np.concatenate(parts)

    def state(self, step: int) -> tuple[int, int]:
        """The epoch in which so many steps end, and how many of its samples they have used."""
        if step < self.course.step:
            raise ValueError(f"step is {step}; the first one is {self.course.step}")
        return divmod(self.course.before(step) * self._batch, self._samples)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            order = self._draw(int(epoch))  # NumPy's whole numbers would be another key
            while len(self._orders) >= 2:  # a batch on the border of two epochs needs both
                self._orders.pop(min(self._orders))
            self._orders[epoch] = order
        return order

    def _draw(self, epoch: int) -> np.ndarray:
        return generator(self._seed, "epoch", epoch).permutation(self._samples)
