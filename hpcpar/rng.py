"""Random numbers keyed on what they are for, never on who draws them.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011): a key gives a stream, and any rank that knows the key has the stream.
"""

import hashlib

import numpy as np

__all__ = ["generator"]


def generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """The stream of random numbers for one purpose, e.g. ``generator(7, "epoch", 3)``.

    The 128-bit Philox key is a hash of all arguments, so that streams of different purposes,
    seeds or keys never overlap in practice.
    """
    text = repr((int(seed), purpose, keys)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
