"""A rank of a model whose layers sleep: what a layout costs, on fewer cores than ranks.

    mpirun -n 4 python benchmarks/peers/slept_layouts.py --pipeline 4 --schedule 1f1b

A layer's forward sleeps `--forward` seconds, its backward `--backward`; half of that are the
gradients of the weights. Rank 0 prints a JSON line: seconds of a step (median), what the ranks'
time went into, and what an all-reduce of the gradient takes by itself.
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

import hpcpar
from hpcpar.data import Part
from hpcpar.nn import Model, Parameter
from hpcpar.nn.losses import SquaredError
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize

WIDTH = 16


class Sleeping:
    """A layer that takes its time, and has a parameter whose gradient is some constant."""

    def __init__(self, number: int, options: argparse.Namespace) -> None:
        self.parameters = [Parameter(f"layer{number}", (options.parameters,))]
        self.options = options

    def forward(self, p: Any, x: Any, arena: Any) -> tuple[Any, Any]:
        time.sleep(self.options.forward)
        return x, ()

    def backward(self, p: Any, g: Any, dy: Any, saved: Any, arena: Any) -> Any:
        dx, kept = self.backward_input(p, dy, saved, arena)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(self, p: Any, dy: Any, saved: Any, arena: Any) -> tuple[Any, Any]:
        time.sleep(self.options.backward / 2)
        return dy, ()

    def backward_weight(self, g: Any, kept: Any, arena: Any) -> None:
        time.sleep(self.options.backward / 2)
        g[self.parameters[0].name].fill(1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


class Ones(Part):
    """Samples."""

    targets_per_sample = 1

    def __len__(self) -> int:
        return 1 << 20

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ones = np.ones((len(indices), WIDTH), np.float32)
        return ones, ones.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--parameters", type=int, default=16, help="of a layer")
    parser.add_argument("--forward", type=float, default=0.005)
    parser.add_argument("--backward", type=float, default=0.01)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--zero", type=int, default=1)
    parser.add_argument("--micros", type=int, default=8)
    parser.add_argument("--leaves", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    layers = [Sleeping(number, options) for number in range(options.layers)]
    plain = Model(layers, SquaredError(), 0, (WIDTH,))
    layout = ParallelConfig(pipeline=options.pipeline, schedule=options.schedule, zero=options.zero)
    with hpcpar.Communicator(device="cpu") as comm:
        mesh = hpcpar.Mesh(comm, **layout.sizes(comm.size))
        batch = BatchConfig(options.micros, 1, options.leaves)
        model = parallelize(plain, mesh, layout, batch)
        model.initialize(0)
        indices, seconds = np.arange(options.micros), []
        for step in range(options.steps + 1):
            comm.barrier()
            before, start = model.timeline.read(), time.perf_counter()
            model.loss_and_gradients(Ones(), indices)
            comm.barrier()
            if step:
                seconds.append(time.perf_counter() - start)
        spent = {kind: now - before[kind] for kind, now in model.timeline.read().items()}
        shares = comm.allgather(np.array([list(spent.values())])).tolist()
        sums = reduce_alone(comm, options.layers * options.parameters)
        if comm.rank == 0:
            print(json.dumps({
                "seconds": statistics.median(seconds), "spent": list(spent), "shares": shares,
                "allreduce": sums,
            }), flush=True)  # fmt: skip
        mesh.close()


def reduce_alone(comm: hpcpar.Communicator, count: int) -> float:
    """Seconds of an all-reduce of so many numbers, with nothing else to do."""
    x = np.ones(count, np.float32)
    times = []
    for _ in range(4):
        comm.barrier()
        start = time.perf_counter()
        comm.allreduce(x, out=x)
        comm.barrier()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
