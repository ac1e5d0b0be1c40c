"""Samples of text: windows of a long sequence of tokens."""

from collections.abc import Sequence

import numpy as np

from hpcpar.data.dataset import Part
from hpcpar.data.documents import Documents

__all__ = ["Stream", "Windows", "count_windows"]


class Stream:
    """Several arrays of tokens as one long sequence, without copying them together."""

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = np.cumsum([0, *(len(piece) for piece in self._pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, out: np.ndarray) -> None:
        """Copy the tokens from `start` on into `out`, which must not reach over the end."""
        if not 0 <= start <= len(self) - len(out):
            raise IndexError(f"tokens {start} to {start + len(out)} of {len(self)}")
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        filled = 0
        while filled < len(out):
            piece = self._pieces[number][start + filled - self._starts[number] :][
                : len(out) - filled
            ]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            number += 1


class Windows(Part):
    """Window i covers tokens i*T to i*T + T, both included: T inputs, and T targets one token on.

    So each token is a target once, but for the first of all and those behind the last whole window.

    Args:
        numbers: which windows of the stream this part has.
        cuts: where the documents of the stream begin; None where it is taken as one.
    """

    def __init__(
        self, stream: Stream, context: int, numbers: np.ndarray, cuts: Documents | None = None
    ) -> None:
        self._stream, self._context, self._numbers = stream, context, numbers
        self._cuts = cuts

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def targets_per_sample(self) -> int:
        return self._context

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.empty((len(indices), self._context), np.int32)
        targets = np.empty_like(inputs)
        window = np.empty(self._context + 1, np.int32)
        for i, number in enumerate(self._numbers[indices].tolist()):
            self._stream.read(number * self._context, window)
            inputs[i], targets[i] = window[:-1], window[1:]
        return inputs, targets

    def documents(self, indices: np.ndarray) -> np.ndarray | None:
        if self._cuts is None:
            return None
        found = np.empty((len(indices), self._context), np.int32)
        for row, number in zip(found, self._numbers[indices].tolist(), strict=True):
            self._cuts.number(number * self._context, row)
        return found


def count_windows(tokens: int, context: int) -> int:
    """How many whole windows there are; the last token is only a target."""
    return max(tokens - 1, 0) // context
