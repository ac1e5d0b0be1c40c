"""What is lent while tensor-parallel ranks multiply, add up and bring together. Pure.

Each function goes through one of `TensorGroup`'s or of the cut products', under the same name.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hpcpar.nn.footprint import norm_backward_scratch
from hpcpar.nn.ops.blocks import block_rows
from hpcpar.parallel.rehearsal import Rehearsal, Totals
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel, RowParallel
from hpcpar.parallel.tile_products import WHOLE
from hpcpar.parallel.tiles import Tiles

__all__ = [
    "NormSizes", "bias_gradient", "column_product", "gather", "gelu_backward", "gelu_forward",
    "norm_backward", "norm_forward", "own_rows", "row_input_gradient", "start_sum", "sum_rows",
    "summed_product", "weight_gradient",
]  # fmt: skip


class NormSizes(NamedTuple):
    """`block.Norm`, in bytes."""

    out: int
    normal: int
    rstd: int


def own_rows(group: TensorGroup, count: int) -> int:
    """Rows of the residual stream that a rank looks after."""
    return len(group.rows(count).held)


def gather(group: TensorGroup, count: int, width: int, arena: Rehearsal) -> list[int]:
    """What is to be given back after `TensorGroup.gather`."""
    return [arena.take((count, width))] if group.sequence else []


def sum_rows(
    group: TensorGroup, count: int, total: int, write: Callable[[int], None], arena: Rehearsal
) -> None:
    """`TensorGroup.sum_rows` into `total` elements; write(rows) is what happens for a tile.

    While a tile is written there is a partial sum for each step to the right on its way down.
    """
    for number, tile in enumerate(group.row_tiles(count)):
        with arena.lend(*[(total,)] * number.bit_count()):
            write(tile.stop - tile.start)


def start_sum(
    group: TensorGroup,
    tiles: Tiles,
    roots: Sequence[int],
    shape: tuple[int, int],
    arena: Rehearsal,
    spread: bool = False,
) -> tuple[int, list[int]]:
    """The sum that `TensorGroup.start_sum` begins, and what is given back when it is there."""
    apart = len(tiles.mine) < len(tiles.runs)
    if apart and spread and group.sequence:
        return arena.take((own_rows(group, shape[0]), shape[1])), [*roots]
    return roots[0], [*roots[1:]]


def summed_product(
    product: ColumnParallel | RowParallel,
    shape: tuple[int, int],
    arena: Rehearsal,
    spread: bool = True,
) -> tuple[int, list[int]]:
    """A product (N, C) that is summed over the tiles: `start_sum` of it."""
    group, tiles, (count, width) = product.group, product.tiles, shape
    sums = Totals(len(tiles.runs), shape, arena)
    for number, (_, *others) in zip(tiles.mine, product.places, strict=True):
        leaf, inner = sums.buffer(), len(tiles.runs[number])
        _product(group, (count, inner, width), arena)
        for _ in others:
            with arena.lend(shape):
                _product(group, (count, inner, width), arena)
        sums.add(number, leaf)
    return start_sum(group, tiles, sums.take(tiles.mine), shape, arena, spread)


def column_product(product: ColumnParallel, shape: tuple[int, int, int], arena: Rehearsal) -> None:
    """`ColumnParallel.forward` of (N, I, O)."""
    _product(product.group, shape, arena, columns=product.columns)


def row_input_gradient(product: RowParallel, shape: tuple[int, int, int], arena: Rehearsal) -> None:
    """`RowParallel.input_gradient` of (N, O, I)."""
    _product(product.group, shape, arena, columns=product.rows)


def weight_gradient(
    product: ColumnParallel | RowParallel, count: int, inputs: int, outputs: int, arena: Rehearsal
) -> None:
    """(I, O) from `count` rows."""
    columns = product.columns if isinstance(product, ColumnParallel) else WHOLE
    down = product.rows if isinstance(product, RowParallel) else WHOLE

    def write(rows: int) -> None:
        _product(product.group, (inputs, rows, outputs), arena, down, columns)

    sum_rows(product.group, count, inputs * outputs, write, arena)


def bias_gradient(group: TensorGroup, count: int, outputs: int, arena: Rehearsal) -> None:
    """(O,) from `count` rows."""
    sum_rows(group, count, outputs, lambda _: None, arena)


def gelu_forward(count: int, units: int, arena: Rehearsal) -> None:
    """`gelu.forward` of (N, units)."""
    arena.over((2, block_rows(count, units, arena.host)[0], units))


def gelu_backward(product: ColumnParallel, count: int, units: int, arena: Rehearsal) -> None:
    """`ColumnParallel.gelu_backward` of (N, units)."""

    def write(rows: int) -> None:
        blocks = block_rows(rows, product.width, arena.host)[1]
        for at in product.summed:
            arena.over((blocks, len(range(*at.indices(units)))))

    sum_rows(product.group, count, units, write, arena)


def norm_forward(group: TensorGroup, count: int, width: int, arena: Rehearsal) -> NormSizes:
    """`TensorNorm.forward` of a stream (N, C)."""
    rows = own_rows(group, count)
    return NormSizes(*(arena.take((rows, columns)) for columns in (width, width, 1)))


def norm_backward(
    group: TensorGroup, norm: NormSizes, count: int, width: int, arena: Rehearsal
) -> int:
    """`TensorNorm.backward`; `norm.out` is still lent."""
    tiles, shape = group.rows(count), (2, width)
    sums = Totals(len(tiles.runs), shape, arena)
    for number in tiles.mine:
        leaf = sums.buffer()
        arena.over_sizes(norm_backward_scratch(len(tiles.runs[number]), width, arena.host))
        sums.add(number, leaf)
    total, parts = start_sum(group, tiles, sums.take(tiles.mine), shape, arena)
    arena.give(parts, norm.normal, norm.rstd)
    return total


def _product(
    group: TensorGroup,
    shape: tuple[int, int, int],
    arena: Rehearsal,
    rows: Sequence[slice] = (),
    columns: Sequence[slice] = WHOLE,
) -> None:
    """(M, K, N): tiles are copied on a GPU, and where one of the matrices is a vector."""
    if not group.tiled:
        return
    height, inner, width = shape
    down = {len(range(*at.indices(height))) for at in rows or group.row_tiles(height)}
    for m in down:
        for n in {len(range(*at.indices(width))) for at in columns}:
            if not arena.host or 1 in (m, n):
                arena.over((m, inner), (inner, n), (m, n))
