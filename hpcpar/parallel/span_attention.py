"""Causal attention of sequences whose positions are cut into spans, and shared by ranks.

Queries stay where they are; keys and values go round (`ring.circulate`). What a span of queries
gets from each span of keys is a partial sum, and these go by the tree over the spans' places
(parallel/spans.py), as do the gradients of keys and values from each span of queries: so the bits
depend on the spans alone, not on the ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena
from hpcpar.nn.attention import Heads
from hpcpar.nn.ops import attention
from hpcpar.nn.ops.blocks import block_rows
from hpcpar.nn.ops.score_blocks import TILE, exponentials, gradients, raise_maxima
from hpcpar.parallel.context import Context
from hpcpar.parallel.ring import Returns, circulate
from hpcpar.tree import Subtotals

__all__ = ["SpanAttention"]

Place = tuple[slice, slice]  # sequences and heads


class Pair(NamedTuple):
    """A span of keys and values that a span of queries attends to."""

    n: int  # place of the queries' span on this rank
    number: int  # of the keys' span
    k: Array  # (B, H, t, C / H)
    v: Array
    columns: slice  # of the scores
    leaf: int  # in the tree over all spans
    causal: bool  # whether both are of the same positions


class SpanAttention:
    """`nn.attention` of what a rank has of the sequences (`Context`), for so many heads.

    That is (s B, t, ...): s spans of t positions. `Heads.scores` has, for each span, the scores of
    all positions up to its last, (B, H, t, ...).
    """

    def __init__(self, context: Context, heads: int, starts: Array | None = None) -> None:
        self._context, self._spans, self._heads = context, context.spans, heads
        self._starts = None if starts is None else self._split(starts)

    def within(self, starts: Array) -> "SpanAttention":
        """The same where positions attend from `starts` on, int32 (B, T) of whole sequences."""
        return SpanAttention(self._context, self._heads, self._context.cut(starts))

    def forward(self, qkv: Array, b: Array, arena: Arena) -> Heads:
        """b (3 C,) is added to qkv, and q in it divided by sqrt(C / H). Collective."""
        xp, spans = namespace(qkv), self._spans
        xp.add(qkv, b, out=qkv)
        q, *_ = attention.split(qkv, self._heads)
        xp.multiply(q, 1 / sqrt(q.shape[-1]), out=q)
        rows, heads, width, channels = q.shape
        blocks = [(rows // spans.each, heads, width, (last + 1) * width) for last in spans.mine]
        kept = Heads(
            qkv,
            [arena.take(shape, qkv.dtype) for shape in blocks],
            arena.take((rows, heads, width, 1), qkv.dtype),
            arena.take((rows, width, heads * channels), qkv.dtype),
        )
        unsafe = self._everything(q)
        if xp is np:
            with np.errstate(over="ignore", invalid="ignore"):
                self._attend(kept, unsafe, None, arena)
            unsafe = self._unsafe(kept.inverse, arena)
        if unsafe:
            maxima = self._maxima(kept, unsafe, arena)
            with np.errstate(over="ignore", invalid="ignore"):  # of heads that are not read
                self._attend(kept, unsafe, self._split(maxima), arena)
            arena.give(maxima)
        xp.reciprocal(kept.inverse, out=kept.inverse)
        o = self._by_head(kept.out)
        xp.multiply(o, kept.inverse, out=o)
        return kept

    def backward(self, dout: Array, kept: Heads, dqkv: Array, arena: Arena) -> None:
        """dqkv (s B, t, 3 C) from dout (s B, t, C), which is overwritten. Collective."""
        xp, spans, dtype = namespace(dout), self._spans, dout.dtype
        q, *_ = attention.split(kept.qkv, self._heads)
        everything, queries = self._everything(q), self._split(q)
        shape = queries[0].shape
        rows = arena.take(kept.inverse.shape, dtype)
        d = attention.begin_backward(dout, kept.out, self._heads, kept.inverse, rows)
        d_of, inner = self._split(d), self._split(rows)
        slopes = arena.take((*shape[:3], shape[2]), dtype)
        of_queries = [self._over_keys(last, shape, dtype, arena) for last in spans.mine]
        of_keys = [_sum(spans.ranks, (2, *shape), dtype, arena) for _ in spans.mine]

        def landed(rank: int, arrays: Sequence[Array]) -> None:
            arrived = dict(zip(spans.attended(rank, spans.rank), arrays, strict=True))
            for number, total in zip(spans.mine, of_keys, strict=True):
                total.add(rank, arrived.get(number))

        back = Returns(self._context, (2, *shape), dtype, spans.attended, landed, arena)

        def visit(owner: int, arrays: Array) -> None:
            sums = {
                number: self._over_queries(number, (2, *shape), dtype, arena)
                for number in spans.attended(spans.rank, owner)
            }
            for pair in self._pairs(owner, arrays):
                dq, (dk, dv) = of_queries[pair.n].buffer(), (dkv := sums[pair.number].buffer())
                for at in everything:
                    gradients(
                        d_of[pair.n][at], inner[pair.n][at], queries[pair.n][at], pair.k[at],
                        pair.v[at], kept.scores[pair.n][at][..., pair.columns], slopes[at],
                        dq[at], dk[at], dv[at], causal=pair.causal,
                        starts=self._first_keys(pair, at),
                    )  # fmt: skip
                of_queries[pair.n].add(pair.leaf, dq)
                sums[pair.number].add(pair.n, dkv)
                self._progress()
            found = [root for total in sums.values() for root in total.take(range(spans.each))]
            back.send(owner, found)

        self._circulate(kept.qkv, visit, arena)
        back.settle()
        for total_q, total_k, *parts in zip(
            of_queries, of_keys, *map(self._split, attention.split(dqkv, self._heads)), strict=True
        ):
            (dq,), (dkv,) = total_q.take(range(spans.count)), total_k.take(range(spans.ranks))
            xp.multiply(dq, 1 / sqrt(shape[-1]), out=parts[0])
            parts[1][...], parts[2][...] = dkv
            arena.give(dq, dkv)
        arena.give(rows, slopes)

    def _attend(
        self,
        kept: Heads,
        places: Sequence[Place],
        shift: Sequence[Array] | None,
        arena: Arena,
    ) -> None:
        """`out`, not yet divided, and the sums of exponentials, of these sequences and heads."""
        spans = self._spans
        q, *_ = attention.split(kept.qkv, self._heads)
        queries, channels = self._split(q), q.shape[-1]
        shape = *queries[0].shape[:-1], channels + 1  # the sums are the last column
        totals = [self._over_keys(last, shape, q.dtype, arena) for last in spans.mine]

        def visit(owner: int, arrays: Array) -> None:
            for pair in self._pairs(owner, arrays):
                part = totals[pair.n].buffer()
                for at in places:
                    exponentials(
                        queries[pair.n][at], pair.k[at], pair.v[at],
                        kept.scores[pair.n][at][..., pair.columns],
                        part[at][..., channels:], part[at][..., :channels], arena,
                        causal=pair.causal, shift=False if shift is None else shift[pair.n][at],
                        starts=self._first_keys(pair, at),
                    )  # fmt: skip
                totals[pair.n].add(pair.leaf, part)
                self._progress()

        self._circulate(kept.qkv, visit, arena)
        out, sums = self._split(self._by_head(kept.out)), self._split(kept.inverse)
        for n, total in enumerate(totals):
            (root,) = total.take(range(spans.count))
            for at in places:
                out[n][at], sums[n][at] = root[at][..., :channels], root[at][..., channels:]
            arena.give(root)

    def _maxima(self, kept: Heads, places: Sequence[Place], arena: Arena) -> Array:
        """The largest score of every row, (s B, H, t, 1)."""
        q, *_ = attention.split(kept.qkv, self._heads)
        queries, maxima = self._split(q), arena.take(kept.inverse.shape, q.dtype)
        maxima.fill(-np.inf)
        top = self._split(maxima)

        def visit(owner: int, arrays: Array) -> None:
            for pair in self._pairs(owner, arrays):
                for at in places:
                    raise_maxima(
                        queries[pair.n][at], pair.k[at],
                        kept.scores[pair.n][at][..., pair.columns], top[pair.n][at], arena,
                        causal=pair.causal, starts=self._first_keys(pair, at),
                    )  # fmt: skip
                self._progress()

        self._circulate(kept.qkv, visit, arena)
        return maxima

    def _unsafe(self, sums: Array, arena: Arena) -> list[Place]:
        """The heads of sequences whose scores have to be shifted, the same on all ranks."""
        each = sums.reshape(self._spans.each, -1, *sums.shape[1:])  # (s, B, H, t, 1)
        limits = arena.take((2, *each.shape[1:3]), sums.dtype)
        np.negative(each.min(axis=(0, 3, 4)), out=limits[0])
        each.max(axis=(0, 3, 4), out=limits[1])
        if self._context.comm is not None:
            self._context.comm.allreduce(limits, "max", out=limits)
        safe = attention.safe_heads(-limits[0], limits[1])
        arena.give(limits)
        return [(slice(b, b + 1), slice(h, h + 1)) for b, h in np.argwhere(~safe).tolist()]

    def _circulate(self, qkv: Array, visit: Callable[[int, Array], None], arena: Arena) -> None:
        """Keys and values go round, as (s, 2, B, t, C)."""
        (rows, width), channels, each = qkv.shape[:2], qkv.shape[2] // 3, self._spans.each
        own = arena.take((each, 2, rows // each, width, channels), qkv.dtype)
        for pair, part in zip(own, self._split(qkv), strict=True):
            pair[0], pair[1] = part[..., channels : 2 * channels], part[..., 2 * channels :]
        circulate(self._context, own, visit, arena)
        arena.give(own)

    def _pairs(self, owner: int, arrays: Array) -> Iterator[Pair]:
        """What this rank has to do with a rank's keys and values."""
        spans = self._spans
        for number, (keys, values) in zip(spans.of(owner), arrays, strict=True):
            k, v, leaf = self._by_head(keys), self._by_head(values), spans.order.index(number)
            for n, last in enumerate(spans.mine):
                if number <= last:
                    yield Pair(n, number, k, v, spans.positions(number), leaf, number == last)

    def _first_keys(self, pair: Pair, at: Place) -> Array | None:
        """The first of a span's keys that each of these queries attends to."""
        if self._starts is None:
            return None
        return self._starts[pair.n][at[0]] - pair.columns.start

    def _over_keys(self, last: int, shape: tuple[int, ...], dtype: Any, arena: Arena) -> Subtotals:
        """For what a span of queries gets from all spans of keys up to it."""
        total = _sum(self._spans.count, shape, dtype, arena)
        for leaf, number in enumerate(self._spans.order):
            if number > last:
                total.add(leaf, None)
        return total

    def _over_queries(
        self, number: int, shape: tuple[int, ...], dtype: Any, arena: Arena
    ) -> Subtotals:
        """For what a span of keys gets from those of this rank's queries that attend to it."""
        total = _sum(self._spans.each, shape, dtype, arena)
        for n, last in enumerate(self._spans.mine):
            if number > last:
                total.add(n, None)
        return total

    def _everything(self, q: Array) -> list[Place]:
        """All sequences and heads: as many sequences at a time as a cache holds the scores of."""
        batch, (_, heads, width, _) = len(q) // self._spans.each, q.shape
        step = block_rows(batch, heads * width * min(width, TILE), namespace(q) is np)[0]
        return [(slice(at, min(at + step, batch)), slice(None)) for at in range(0, batch, step)]

    def _split(self, x: Array) -> list[Array]:
        """(s B, ...) as the (B, ...) of each span."""
        step = len(x) // self._spans.each
        return [x[start : start + step] for start in range(0, len(x), step)]

    def _by_head(self, x: Array) -> Array:
        """(B, T, C) seen as (B, H, T, C / H)."""
        return x.reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2)

    def _progress(self) -> None:
        if self._context.comm is not None:
            self._context.comm.progress()


def _sum(leaves: int, shape: tuple[int, ...], dtype: Any, arena: Arena) -> Subtotals:
    like = arena.take(shape, dtype)
    arena.give(like)
    return Subtotals(leaves, like, arena)
