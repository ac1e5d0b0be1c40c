"""Attention of whole sequences, as a block calls it."""

from typing import Any, NamedTuple

from hpcpar.device import Array
from hpcpar.nn.arena import Arena
from hpcpar.nn.ops import attention

__all__ = ["Attention", "Heads"]


class Heads(NamedTuple):
    """What attention leaves behind."""

    qkv: Array  # (B, T, 3 C)
    scores: Any  # (B, H, T, T); a list of such blocks where positions are cut
    inverse: Array  # (B, H, T, 1)
    out: Array  # (B, T, C)


class Attention:
    """See `nn.ops.attention`; so many heads, and the first position that each attends to."""

    def __init__(self, heads: int, starts: Array | None = None) -> None:
        self._heads, self._starts = heads, starts

    def within(self, starts: Array) -> "Attention":
        """The same for sequences in which positions attend from `starts` on, int32 (B, T)."""
        return Attention(self._heads, starts)

    def forward(self, qkv: Array, b: Array, arena: Arena) -> Heads:
        """Heads of qkv (B, T, 3 C), without its bias b (3 C,) yet, which they keep."""
        batch, length, width = qkv.shape
        scores = arena.take((batch, self._heads, length, length), qkv.dtype)
        inverse = arena.take((batch, self._heads, length, 1), qkv.dtype)
        out = arena.take((batch, length, width // 3), qkv.dtype)
        attention.forward(qkv, b, self._heads, out, scores, inverse, arena, self._starts)
        return Heads(qkv, scores, inverse, out)

    def backward(self, dout: Array, kept: Heads, dqkv: Array, arena: Arena) -> None:
        """dqkv (B, T, 3 C) from dout (B, T, C), which is overwritten."""
        qkv, scores, inverse, out = kept
        attention.backward(dout, out, qkv, self._heads, scores, inverse, dqkv, arena, self._starts)
