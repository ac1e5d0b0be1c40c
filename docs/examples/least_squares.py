"""Gradient descent for least squares, on a matrix that no rank holds as a whole.

    mpirun -n 4 python docs/examples/least_squares.py --partition both

minimizes |X w - y|^2 / 2m. `rows` is data parallelism: a rank has some samples and all weights.
`columns` is model parallelism: some features of all samples, and their weights. `both` is a grid.
The program is the same; the products bring together what belongs together. With tiles of fixed
shape the bits are the same for every partition and number of ranks: so is the last line, a hash.
"""

import argparse
import hashlib

import numpy as np

import hpcpar
from hpcpar.linalg import DistributedMatrix, from_function, matmul

TILES = 64, 64, 64
# Where X, w and the residual lie.
PARTITIONS = {
    "rows": ("rows", "replicated", "rows"),
    "columns": ("columns", "rows", "replicated"),
    "both": ("block", "rows", "rows"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partition", choices=PARTITIONS, default="rows")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", type=float, default=0.5)
    options = parser.parse_args()
    with hpcpar.Communicator(device="cpu") as comm:
        rows = 2 if comm.size % 2 == 0 else 1
        mesh = hpcpar.Mesh(comm, rows=rows, columns=-1)
        for_x, for_w, for_r = PARTITIONS[options.partition]
        shape = options.samples, options.features
        X = from_function(noise, mesh, shape, layout=for_x)
        truth = from_function(lambda i, j: np.cos(i + j), mesh, (shape[1], 1))
        y = matmul(X, truth, tiles=TILES).redistribute(for_r)
        w = DistributedMatrix.empty(mesh, (shape[1], 1), layout=for_w)
        for step, loss in enumerate(descend(X, y, w, options.steps, options.lr), 1):
            if comm.rank == 0:
                print(f"step {step}  loss {loss:.6f}", flush=True)
        weights = w.gather()
        if weights is not None:
            print("weights sha256", hashlib.sha256(weights.tobytes()).hexdigest())
        mesh.close()


def descend(
    X: DistributedMatrix, y: DistributedMatrix, w: DistributedMatrix, steps: int, lr: float
):
    """Improve w in place; yields the loss before each step."""
    samples = X.shape[0]
    residual = y.redistribute(y.layout)
    for _ in range(steps):
        residual.local[...] = y.local
        matmul(X, w, out=residual, beta=-1, tiles=TILES)  # X w - y
        square = matmul(residual.T, residual, tiles=TILES).redistribute("replicated")
        matmul(X.T, residual, out=w, alpha=-lr / samples, beta=1, tiles=TILES)
        yield float(square.local[0, 0]) / (2 * samples)


def noise(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1 that look random, from where they stand alone."""
    bits = (i.astype(np.uint32) * np.uint32(2654435761)) ^ (j.astype(np.uint32) * np.uint32(40503))
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(2246822519)
    bits ^= bits >> np.uint32(13)
    return bits.astype(np.float32) / 2**31 - 1


if __name__ == "__main__":
    main()
