"""Steps with checkpoints written behind them, and without, in turn: for benchmarks/checkpoints.py.

    mpirun -n 2 python benchmarks/peers/checkpointed_steps.py FOLDER --every 10 --rounds 3

A span is `every` steps; each round has one span without and one with a checkpoint, which begins
after its first step. Rank 0 prints a JSON line: seconds of each span; of `begin`, which the steps
wait for; until the checkpoint was there; and its bytes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from planned_layouts import Tokens

import hpcpar
from hpcpar.checkpoint import Writer, list_checkpoints
from hpcpar.nn import gpt
from hpcpar.parallel import BatchConfig, ParallelConfig, ParallelModel, parallelize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    with hpcpar.Communicator(device="cpu") as comm:
        plain = gpt(options.layers, 4, options.width, Tokens.targets_per_sample, 256)
        parallel, batch = ParallelConfig(), BatchConfig(size=8, micro=2, leaves=4)
        mesh = hpcpar.Mesh(comm, **parallel.sizes(comm.size))
        model = parallelize(plain, mesh, parallel, batch)
        model.initialize(1)
        found: dict[str, list[float]] = {"none": [], "checkpoint": [], "begin": [], "there": []}
        step(model)  # what is done once
        with Writer(model, options.folder if comm.rank == 0 else None, keep=2) as saving:
            saving.begin(1, (0, 0))  # its buffers are made
            saving.finish()
            for number in range(options.rounds):
                found["none"].append(span(model, options.every, None, 0)[0])
                times = span(model, options.every, saving, number + 2)
                for name, seconds in zip(("checkpoint", "begin", "there"), times, strict=True):
                    found[name].append(seconds)
        mesh.close()
        if comm.rank == 0:
            place = list_checkpoints(options.folder)[-1]
            size = sum(path.stat().st_size for path in place.iterdir())
            print(json.dumps(found | {"bytes": size, "every": options.every}), flush=True)


def step(model: ParallelModel) -> None:
    model.loss_and_gradients(Tokens(), np.arange(8))
    model.update.norm()
    model.update.step(1e-4, 1.0)


def span(
    model: ParallelModel, steps: int, saving: Writer | None, number: int
) -> tuple[float, float, float]:
    """Seconds of the steps, of `begin`, and from there until the checkpoint was there."""
    begun = there = 0.0
    model.comm.barrier()
    start = time.perf_counter()
    for i in range(steps):
        step(model)
        if saving is None:
            continue
        if i == 0:
            before = time.perf_counter()
            saving.begin(number, (0, 0))
            begun = time.perf_counter() - before
        saving.advance()
        if not there and not saving.under_way:
            there = time.perf_counter() - before
    if saving is not None and saving.under_way:  # the steps were too short for it
        saving.finish()
        there = time.perf_counter() - before
    model.comm.barrier()
    return time.perf_counter() - start, begun, there


if __name__ == "__main__":
    main()
