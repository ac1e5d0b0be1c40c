"""Which samples are for training, and which for validation."""

import numpy as np

from hpcpar.rng import generator

__all__ = ["split"]


def split(samples: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the training and of the validation samples, each sorted, at least one of each.

    A fixed permutation picks them, so that runs with other seeds are judged by the same samples.
    Raises ValueError for fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"{samples} samples cannot be split: there must be one of each part")
    count = min(max(round(samples * fraction), 1), samples - 1)
    picked = np.zeros(samples, bool)
    picked[generator(0, "validation").permutation(samples)[:count]] = True
    return np.flatnonzero(~picked), np.flatnonzero(picked)
