"""Batches in which each class has the share that it has of all samples."""

from collections.abc import Sequence

import numpy as np

from hpcpar.data.sampler import Course, Sampler
from hpcpar.rng import generator

__all__ = ["StratifiedSampler", "shares"]


class StratifiedSampler(Sampler):
    """Deals all samples once per epoch, each batch with the classes in the proportions of all.

    Within a batch the classes are spread evenly too, so that ranks and micro-batches, which have
    runs of it, have about the same ones.

    Args:
        classes: the class of each sample, whole numbers (N,).
    """

    def __init__(
        self, classes: np.ndarray, batch: int, seed: int, course: Course | None = None
    ) -> None:
        super().__init__(len(classes), batch, seed, course)
        self._classes = np.unique(classes, return_inverse=True)[1]

    def _draw(self, epoch: int) -> np.ndarray:
        order = super()._draw(epoch)
        classes = self._classes[order]
        by_class = order[np.argsort(classes, kind="stable")]
        # An epoch may begin within a batch: its first run is what that batch lacks.
        first = -epoch * self._samples % self._batch
        ends = range(first or self._batch, self._samples, self._batch)
        sizes = np.diff([0, *ends, self._samples])
        runs = shares(np.bincount(classes), sizes.tolist()).T  # (classes, runs)
        counts = runs.reshape(-1)
        cell = np.repeat(np.arange(counts.size), counts)
        place = np.arange(self._samples) - (np.cumsum(counts) - counts)[cell]
        shift = generator(self._seed, "strata", epoch).random(counts.size)
        within = (place + shift[cell]) / counts[cell]
        return by_class[np.lexsort((within, cell % runs.shape[1]))]


def shares(counts: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """How many samples of each class go into each of some runs of samples: int64 (runs, classes).

    By largest remainders (Hamilton's method) of what each class is owed by the end of a run, so
    that what is rounded away in one run comes in the next. The lower class wins a tie.

    Args:
        counts: samples of each class.
        sizes: of the runs, which take all samples.
    """
    counts, total = counts.astype(np.int64), int(counts.sum())
    given, done = np.zeros_like(counts), 0
    table = np.zeros((len(sizes), len(counts)), np.int64)
    for row, size in zip(table, sizes, strict=True):
        done += size
        owed = done * counts - given * total  # in samples / total: no rounding
        row[...] = np.maximum(owed // total, 0)
        rest = owed - row * total
        for _ in range(size - int(row.sum())):
            place = int(np.argmax(rest))
            row[place] += 1
            rest[place] -= total
        for _ in range(int(row.sum()) - size):  # others had more than they were owed
            place = int(np.argmin(np.where(row > 0, rest, total)))
            row[place] -= 1
            rest[place] += total
        given += row
    return table
