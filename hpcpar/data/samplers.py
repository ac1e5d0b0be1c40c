"""The sampler that a configuration asks for."""

import numpy as np

from hpcpar.data.balance import compose
from hpcpar.data.config import DataConfig
from hpcpar.data.dataset import Part
from hpcpar.data.documents import squared_lengths
from hpcpar.data.sampler import Course, Sampler
from hpcpar.data.stratified import StratifiedSampler

__all__ = ["BalancedSampler", "make_sampler"]


class BalancedSampler(Sampler):
    """The samples of `Sampler`, each batch in an order in which its micro-batches cost the same.

    All samples are equally long, so they differ in what attention has to do within their documents
    alone. That depends on the lengths and on nothing that was measured: a step is the same on any
    machine and on any layout of ranks.

    Args:
        part: the samples, with documents.
        micro: samples of a micro-batch, of which a batch has a whole number.
        leaves: of the gradient's sum.
    """

    def __init__(
        self,
        part: Part,
        batch: int,
        micro: int,
        leaves: int,
        seed: int,
        course: Course | None = None,
    ) -> None:
        super().__init__(len(part), batch, seed, course)
        self._part, self._micro, self._leaves = part, micro, leaves

    def indices(self, step: int) -> np.ndarray:
        batches = super().indices(step).reshape(-1, self._batch)
        return np.concatenate([self._composed(drawn) for drawn in batches])

    def _composed(self, drawn: np.ndarray) -> np.ndarray:
        documents = self._part.documents(drawn)
        if documents is None:
            raise ValueError("these samples have no documents to balance by")
        return drawn[compose(squared_lengths(documents), self._micro, self._leaves)]


def make_sampler(
    part: Part,
    config: DataConfig,
    batch: int,
    micro: int,
    leaves: int,
    seed: int,
    course: Course | None = None,
) -> Sampler:
    """Which samples of a part a step has.

    Args:
        batch: samples of a global batch.
        micro, leaves: how it is cut (`parallel.config.BatchConfig`).
        seed: the run's.
        course: which batches a step takes.
    """
    if config.balance:
        return BalancedSampler(part, batch, micro, leaves, seed, course)
    if config.stratify:
        if part.classes is None:
            raise ValueError("these samples have no classes to stratify by")
        return StratifiedSampler(part.classes, batch, seed, course)
    return Sampler(len(part), batch, seed, course)
