"""Where the documents of a long sequence of tokens begin.

Packing: documents lie one behind the other and are cut into samples of exactly as many tokens as
the model sees, so that not one token is padding (Krell et al., arXiv:2107.02027, mask attention in
the same way). A long document goes on in the next sample, and starts anew there.
"""

import numpy as np

__all__ = ["Documents", "squared_lengths"]


class Documents:
    """Documents that lie one behind the other, none empty.

    Args:
        starts: int64 (D,), rising from 0: the first token of each.
        length: tokens of all of them.
    """

    def __init__(self, starts: np.ndarray, length: int) -> None:
        self._starts, self._length = starts, length

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 (D,)."""
        return np.diff(self._starts, append=self._length)

    def number(self, start: int, out: np.ndarray) -> None:
        """Write the number of each token's document into `out` (T,), from token `start` on."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        stop = int(np.searchsorted(self._starts, start + len(out), side="left"))
        edges = self._starts[first + 1 : stop] - start
        pieces = np.diff(edges, prepend=0, append=len(out))
        out[...] = np.repeat(np.arange(first, stop, dtype=np.int32), pieces)


def squared_lengths(documents: np.ndarray) -> np.ndarray:
    """What attention has to do in each sample of `documents` (B, T): int64 (B,).

    That is in proportion to the sum of the squares of the lengths of the pieces of documents in it.
    """
    begins = np.ones(documents.shape, bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    places = np.flatnonzero(begins)
    pieces = np.diff(places, append=documents.size)
    squares = np.zeros(len(documents), np.int64)
    np.add.at(squares, places // documents.shape[1], pieces**2)
    return squares
