"""What attention takes from an arena: of whole sequences, and over spans. Pure.

Each function goes through one of `nn.Attention`'s or `SpanAttention`'s, under the same name.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hpcpar.parallel.rehearsal import Lent, Rehearsal, Totals
from hpcpar.parallel.spans import Spans

__all__ = ["HeadSizes", "Queries", "attention_backward", "attention_forward"]


class Queries(NamedTuple):
    """What a rank has: `rows` sequences (all of its spans) of `width` positions, so many heads of
    so many channels, and the spans that there are.
    """

    rows: int
    width: int
    heads: int
    channels: int
    spans: Spans

    @property
    def batch(self) -> int:
        """Sequences of a span."""
        return self.rows // self.spans.each

    def shape(self, columns: int) -> tuple[int, ...]:
        """Of what the queries of a span have `columns` of."""
        return (self.batch, self.heads, self.width, columns)


class HeadSizes(NamedTuple):
    """`nn.attention.Heads`, in bytes."""

    qkv: int
    scores: Lent
    inverse: int
    out: int


def attention_forward(q: Queries, qkv: int, arena: Rehearsal) -> HeadSizes:
    """Of what was projected to `qkv`."""
    spans = q.spans
    scores = [arena.take(q.shape((last + 1) * q.width)) for last in spans.mine]
    inverse = arena.take((q.rows, q.heads, q.width, 1))
    kept = HeadSizes(qkv, scores, inverse, arena.take((q.rows, q.width, q.heads * q.channels)))
    if spans.count == 1:
        return kept
    if arena.host:
        _attend(q, arena)
        arena.over((2, q.batch, q.heads))  # whether all heads are safe: then that was it
    else:
        with arena.lend((q.rows, q.heads, q.width, 1)):  # maxima
            _circulate(q, lambda _: None, arena)
            _attend(q, arena)
    return kept


def attention_backward(q: Queries, arena: Rehearsal) -> None:
    """From gradients of the heads to those of `qkv`, which are lent already."""
    spans, at_once = q.spans, 1 if arena.host else q.batch
    if spans.count == 1:
        arena.over((q.rows, q.heads, q.width, 1), (at_once, *q.shape(q.width)[1:]))
        return
    shape, pair = q.shape(q.channels), (2, *q.shape(q.channels))
    lent = [arena.take((q.rows, q.heads, q.width, 1)), arena.take(q.shape(q.width))]
    of_queries = [_over_keys(q, last, shape, arena) for last in spans.mine]
    of_keys = [Totals(spans.ranks, pair, arena) for _ in spans.mine]
    settle: list[Callable[[], None]] = []

    def landed(rank: int, arrays: Lent) -> None:
        arrived = dict(zip(spans.attended(rank, spans.rank), arrays, strict=True))
        for number, total in zip(spans.mine, of_keys, strict=True):
            total.add(rank, arrived.get(number))

    def send(owner: int, arrays: Lent) -> None:
        if owner == spans.rank:
            landed(owner, arrays)
            return
        if settle:
            settle.pop()()
        source = (2 * spans.rank - owner) % spans.ranks
        coming = [arena.take(pair) for _ in spans.attended(source, spans.rank)]

        def arrive() -> None:
            arena.give(arrays)
            landed(source, coming)

        settle.append(arrive)

    def visit(owner: int) -> None:
        sums = {n: _over_queries(q, n, pair, arena) for n in spans.attended(spans.rank, owner)}
        for n, number, leaf in _pairs(spans, owner):
            dq, dkv = of_queries[n].buffer(), sums[number].buffer()
            of_queries[n].add(leaf, dq)
            sums[number].add(n, dkv)
        send(owner, [root for total in sums.values() for root in total.take(range(spans.each))])

    _circulate(q, visit, arena)
    if settle:
        settle.pop()()
    for total_q, total_k in zip(of_queries, of_keys, strict=True):
        arena.give(total_q.take(range(spans.count)), total_k.take(range(spans.ranks)))
    arena.give(lent)


def _attend(q: Queries, arena: Rehearsal) -> None:
    spans, shape = q.spans, q.shape(q.channels + 1)
    totals = [_over_keys(q, last, shape, arena) for last in spans.mine]

    def visit(owner: int) -> None:
        for n, _, leaf in _pairs(spans, owner):
            totals[n].add(leaf, totals[n].buffer())

    _circulate(q, visit, arena)
    for total in totals:
        arena.give(total.take(range(spans.count)))


def _circulate(q: Queries, visit: Callable[[int], None], arena: Rehearsal) -> None:
    """Keys and values, this rank's and at most two of others'."""
    spans = q.spans
    shape = (spans.each, 2, q.batch, q.width, q.heads * q.channels)
    own = here = arena.take(shape)
    for step in range(spans.ranks):
        coming = arena.take(shape) if step < spans.ranks - 1 else own
        visit((spans.rank - step) % spans.ranks)
        if step:
            arena.give(here)
        here = coming
    arena.give(own)


def _pairs(spans: Spans, owner: int) -> Iterator[tuple[int, int, int]]:
    """Place of the queries' span, number of the keys', leaf in the tree over all."""
    for number in spans.of(owner):
        for n, last in enumerate(spans.mine):
            if number <= last:
                yield n, number, spans.order.index(number)


def _over_keys(q: Queries, last: int, shape: tuple[int, ...], arena: Rehearsal) -> Totals:
    total = Totals(q.spans.count, shape, arena)
    for leaf, number in enumerate(q.spans.order):
        if number > last:
            total.add(leaf, None)
    return total


def _over_queries(q: Queries, number: int, shape: tuple[int, ...], arena: Rehearsal) -> Totals:
    total = Totals(q.spans.each, shape, arena)
    for n, last in enumerate(q.spans.mine):
        if number > last:
            total.add(n, None)
    return total
