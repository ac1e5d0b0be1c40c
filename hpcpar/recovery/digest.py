"""A digest of the bits of an array, at memory speed, the same for NumPy and CuPy."""

from typing import Any

from hpcpar.device import Array, namespace

__all__ = ["digest"]

WIDTH = 1024  # words of a row


def digest(array: Array) -> Array:
    """Two uint64 of a contiguous array of 4- or 8-byte numbers, where the array is.

    The array is a table of 32-bit words w, 1024 in a row; with the sums of its rows and columns,
    the digest is

        sum over i of (2 i + 1) * sum over j of w[i, j]
        sum over j of (2 j + 1) * sum over i of w[i, j]        (both modulo 2^64)

    Whole numbers have the same sum in any order. **Every change of one or two bits is seen**: a
    flipped bit b changes a word by +-2^b, b < 32. One of them changes both sums by an odd multiple
    of 2^b, which is not 0. Of two, let b <= c be the bits; 2^b (2 i + 1) +- 2^c (2 k + 1) is 0 only
    if b = c, for the numbers in brackets are odd, and if these are the same, for they are far
    below 2^32: so both lie in one row, and, by the other sum, in one column: one word. But there,
    they are two bits, and not the same. More than two pass unseen only where they cancel in both
    sums, about once in 2^64 for random ones.
    """
    xp = namespace(array)
    words = array.reshape(-1).view(xp.uint32)
    rows = len(words) // WIDTH
    table, rest = words[: rows * WIDTH].reshape(rows, WIDTH), words[rows * WIDTH :]
    by_row = xp.concatenate([_sums(xp, table, 1), _sums(xp, rest.reshape(1, -1), 1)])
    by_column = _sums(xp, table, 0)
    by_column[: len(rest)] += rest
    return xp.stack([_weighted(xp, by_row), _weighted(xp, by_column)])


def _weighted(xp: Any, sums: Array) -> Array:
    odd = 2 * xp.arange(len(sums), dtype=xp.uint64) + xp.uint64(1)
    return (sums * odd).sum(dtype=xp.uint64)


def _sums(xp: Any, words: Array, axis: int) -> Array:
    return words.sum(axis=axis, dtype=xp.uint64)
