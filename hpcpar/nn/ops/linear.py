"""y = x @ w + b on the last axis."""

from hpcpar.device import Array, namespace

__all__ = ["forward", "input_gradient", "weight_gradient"]


def forward(x: Array, w: Array, b: Array | None, out: Array) -> None:
    """out (N, O) = x (N, I) @ w (I, O) + b (O,)."""
    xp = namespace(x)
    xp.matmul(x, w, out=out)
    if b is not None:
        xp.add(out, b, out=out)


def input_gradient(dy: Array, w: Array, dx: Array) -> None:
    """dx (N, I) = dy (N, O) @ w.T."""
    namespace(dy).matmul(dy, w.T, out=dx)


def weight_gradient(x: Array, dy: Array, dw: Array, db: Array | None) -> None:
    """dw (I, O) = x.T @ dy, and db (O,) = the sum of dy's rows."""
    namespace(dy).matmul(x.T, dy, out=dw)
    if db is not None:
        dy.sum(axis=0, out=db)
