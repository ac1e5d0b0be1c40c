"""Linear maps whose weight is cut, tile by tile (Shoeybi et al., arXiv:1909.08053, section 3).

    column-parallel    y[:, tile] = x @ w[:, tile]        x is whole, y is cut
                       dx = the sum over tiles of dy[:, tile] @ w[:, tile].T
    row-parallel       y = the sum over tiles of x[:, tile] @ w[tile]
                       dx[:, tile] = dy @ w[tile].T       x is cut, y is whole

As products on grids of ranks (linalg/grids.py) the first of each pair is 1 x P x 1 with all of A
everywhere, so that nothing moves, and the second 1 x 1 x P, whose layers are added up.

Arrays are (N, I) and (N, O), weights (I, O); what is cut is there as far as this rank holds it.
"""

from collections.abc import Callable, Sequence

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena
from hpcpar.nn.ops import gelu
from hpcpar.parallel.tensor_group import Pending, TensorGroup
from hpcpar.parallel.tile_products import WHOLE, tile_products
from hpcpar.parallel.tiles import Tiles
from hpcpar.tree import Subtotals

__all__ = ["ColumnParallel", "RowParallel"]


class ColumnParallel:
    """x (N, I) @ w (I, O), O cut; `groups` times the tiles' elements (three: q, k and v).

    Attributes: group; tiles; places, of each tile; columns, where they lie, one after the other;
    summed, the columns that are added up at once; width, of the whole axis.
    """

    def __init__(self, group: TensorGroup, tiles: Tiles, groups: int = 1) -> None:
        self.group, self.tiles = group, tiles
        self.places = tiles.places(groups)
        self.columns = [at for tile in self.places for at in tile]  # where tiles lie
        # The rows of two or more columns are added one after the other, those of one otherwise.
        single = any(len(run) == 1 for run in tiles.runs)
        self.summed = self.columns if single else [slice(None)]
        self.width = groups * tiles.runs[-1].stop

    def forward(self, x: Array, w: Array, y: Array, arena: Arena) -> None:
        """y = x @ w."""
        _products(self.group, x, w, y, arena, columns=self.columns)

    def weight_gradient(self, x: Array, dy: Array, dw: Array, arena: Arena) -> None:
        """dw = x.T @ dy."""

        def product(rows: slice, out: Array) -> None:
            _products(self.group, x[rows].T, dy[rows], out, arena, WHOLE, self.columns)

        self.group.sum_rows(len(x), product, dw, arena)

    def bias_gradient(self, dy: Array, db: Array, arena: Arena) -> None:
        """db (O,) = the sum of dy's rows."""

        def total(rows: slice, out: Array) -> None:
            for at in self.summed:
                dy[rows, at].sum(axis=0, out=out[at])

        self.group.sum_rows(len(dy), total, db, arena)

    def gelu_backward(self, dy: Array, slope: Array, db: Array, arena: Arena) -> None:
        """`gelu.backward` of what comes after the product and a bias."""

        def back(rows: slice, out: Array) -> None:
            for at in self.summed:
                gelu.backward(dy[rows, at], slope[rows, at], out[at], arena, self.width)

        self.group.sum_rows(len(dy), back, db, arena)

    def input_gradient(self, dy: Array, w: Array, arena: Arena, spread: bool = False) -> Pending:
        """dx = dy @ w.T, summed over all ranks; see `TensorGroup.start_sum`."""

        def product(tile: Sequence[slice], out: Array) -> None:
            first, *others = tile
            _products(self.group, dy[:, first], w[:, first].T, out, arena)
            for at in others:
                part = arena.take(out.shape, out.dtype)
                _products(self.group, dy[:, at], w[:, at].T, part, arena)
                namespace(out).add(out, part, out=out)
                arena.give(part)

        like = arena.take((len(dy), len(w)), dy.dtype)
        return _sum(self.group, self.tiles, product, self.places, like, arena, spread)


class RowParallel:
    """x (N, I) @ w (I, O), I cut.

    Attributes: group; tiles; places, of each; rows, where they lie in w.
    """

    def __init__(self, group: TensorGroup, tiles: Tiles) -> None:
        self.group, self.tiles = group, tiles
        self.places = tiles.places()
        self.rows = [at for (at,) in self.places]  # where tiles lie

    def forward(self, x: Array, w: Array, arena: Arena, spread: bool = False) -> Pending:
        """y = x @ w, summed over all ranks; see `TensorGroup.start_sum`."""

        def product(tile: Sequence[slice], out: Array) -> None:
            (at,) = tile
            _products(self.group, x[:, at], w[at], out, arena)

        like = arena.take((len(x), w.shape[1]), x.dtype)
        return _sum(self.group, self.tiles, product, self.places, like, arena, spread)

    def weight_gradient(self, x: Array, dy: Array, dw: Array, arena: Arena) -> None:
        """dw = x.T @ dy."""

        def product(rows: slice, out: Array) -> None:
            _products(self.group, x[rows].T, dy[rows], out, arena, self.rows)

        self.group.sum_rows(len(x), product, dw, arena)

    def bias_gradient(self, dy: Array, db: Array, arena: Arena) -> None:
        """db (O,) = the sum of dy's rows."""

        def total(rows: slice, out: Array) -> None:
            dy[rows].sum(axis=0, out=out)

        self.group.sum_rows(len(dy), total, db, arena)

    def input_gradient(self, dy: Array, w: Array, dx: Array, arena: Arena) -> None:
        """dx = dy @ w.T."""
        _products(self.group, dy, w.T, dx, arena, columns=self.rows)


def _products(
    group: TensorGroup,
    a: Array,
    b: Array,
    out: Array,
    arena: Arena,
    rows: Sequence[slice] = (),
    columns: Sequence[slice] = WHOLE,
) -> None:
    """out = a @ b by tiles, where there are any; `rows` are those of all positions if not named."""
    if group.tiled:
        tile_products(a, b, out, rows or group.row_tiles(len(a)), columns, arena)
    else:
        namespace(out).matmul(a, b, out=out)


def _sum(
    group: TensorGroup,
    tiles: Tiles,
    product: Callable[[Sequence[slice], Array], None],
    places: Sequence[Sequence[slice]],
    like: Array,
    arena: Arena,
    spread: bool,
) -> Pending:
    """Begin to sum what `product` writes for each tile, by the tree over the tiles' numbers.

    `like` is an array of the sum's shape, which is given back.
    """
    sums = Subtotals(len(tiles.runs), like, arena)
    arena.give(like)
    for number, tile in zip(tiles.mine, places, strict=True):
        leaf = sums.buffer()
        product(tile, leaf)
        sums.add(number, leaf)
    return group.start_sum(tiles, sums.take(tiles.mine), arena, spread)
