"""The baseline of a text: what a model reaches that knows nothing but the token before."""

from collections.abc import Iterator

import numpy as np

from hpcpar.data.dataset import Part

__all__ = ["bigram_loss"]

BLOCK = 1 << 22  # targets counted at once


def bigram_loss(train: Part, validation: Part, samples: np.ndarray, vocabulary: int) -> float:
    """The mean cross-entropy, in nats per target, of bigram counts smoothed by adding one.

    p(b after a) = (n(ab) + 1) / (n(a) + vocabulary), n being counts over the training part
    (Laplace's rule; Jurafsky and Martin, "Speech and Language Processing", section 3.6).

    Args:
        samples: numbers of the validation samples to judge by.
        vocabulary: tokens are below it. Memory and time grow with its square.
    """
    seen = _count(train, np.arange(len(train)), vocabulary)
    asked = _count(validation, samples, vocabulary)
    smoothed = seen + 1
    logs = np.log(smoothed) - np.log(smoothed.sum(axis=1, keepdims=True))
    return -float((asked * logs).sum()) / int(asked.sum())


def _count(part: Part, samples: np.ndarray, vocabulary: int) -> np.ndarray:
    """How often b follows a within a sample: int64 (vocabulary, vocabulary)."""
    counts = np.zeros(vocabulary**2, np.int64)
    for block in _blocks(samples, max(BLOCK // part.targets_per_sample, 1)):
        inputs, targets = part.batch(block)
        pairs = inputs.reshape(-1).astype(np.int64)
        pairs *= vocabulary
        pairs += targets.reshape(-1)
        counts += np.bincount(pairs, minlength=len(counts))
    return counts.reshape(vocabulary, vocabulary)


def _blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[start : start + size] for start in range(0, len(samples), size))
