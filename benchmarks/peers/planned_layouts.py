"""Layouts of these ranks, planned and measured: for benchmarks/plans.py.

    mpirun -n 2 python benchmarks/peers/planned_layouts.py --kind gpt
    mpirun -n 8 python benchmarks/peers/planned_layouts.py --kind slept

`gpt` is the GPT of benchmarks/training.py; the layers of `slept` sleep. Rank 0 prints a JSON line a
layout, the one that the plan likes best first: seconds of a step, as planned from figures that are
measured first, and measured (the median of steps that are made in turn with the other layouts');
and bytes of the rank that needs most, as planned and as counted.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from slept_layouts import Ones, Sleeping

import hpcpar
from hpcpar.nn import Model, gpt
from hpcpar.nn.footprint import Footprint, floats
from hpcpar.nn.losses import SquaredError
from hpcpar.optim import OptimConfig
from hpcpar.parallel import BatchConfig, ParallelConfig, ParallelModel, parallelize
from hpcpar.parallel.figures import measure_figures
from hpcpar.parallel.plan import Plan, describe, plan_layouts
from hpcpar.parallel.shares import lone_model

GPT = {"layers": 4, "heads": 4, "width": 256, "context": 256, "vocabulary": 256}


class Tokens:
    """Random text."""

    targets_per_sample = GPT["context"]

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(int(indices[0]))
        tokens = random.integers(0, GPT["vocabulary"], (len(indices), GPT["context"] + 1), np.int32)
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])

    def documents(self, indices: np.ndarray) -> np.ndarray | None:
        return None


class PlannedSleep(Sleeping):
    """A layer that sleeps, and takes nothing from the arena."""

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        none = floats()
        return Footprint(none, none, none, none, none)

    def flops(self, shape: tuple[int, ...]) -> float:
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("gpt", "slept"), default="gpt")
    parser.add_argument("--reproducible", default="ranks", help="layout: all axes, in tiles")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=16, help="of the slept model")
    parser.add_argument("--parameters", type=int, default=1 << 16, help="of each of them")
    parser.add_argument("--forward", type=float, default=0.004, help="seconds of each")
    parser.add_argument("--backward", type=float, default=0.008)
    options = parser.parse_args()
    with hpcpar.Communicator(device="cpu") as comm:
        plain, part, batch = made(options)
        optim = OptimConfig()
        kept = options.reproducible
        alone = lone_model(plain, ParallelConfig.tiles if kept == "layout" else None)
        figures = measure_figures(alone, batch.micro, optim, comm)
        plans = plan_layouts(plain, batch, optim, comm.size, figures, reproducible=kept)
        plans = chosen(plans, options.kind)
        runs = [Run(plain, plan, batch, comm, part, kept) for plan in plans]
        for _ in range(options.steps + 1):
            for run in runs:
                run.step()
        for plan, run in zip(plans, runs, strict=True):
            counted = most_bytes(run.model)
            if comm.rank == 0:
                print(json.dumps({
                    "layout": describe(plan.layout.parallel), "planned": plan.seconds.total,
                    "measured": statistics.median(run.seconds[1:]),
                    "compute": plan.seconds.compute, "bubble": plan.seconds.bubble,
                    "exposed": plan.seconds.communication,
                    "bytes": {"planned": asdict(plan.bytes), "counted": counted},
                }), flush=True)  # fmt: skip
            run.mesh.close()


def made(options: argparse.Namespace) -> tuple[Model, Any, BatchConfig]:
    """A model, its samples and its batch."""
    if options.kind == "gpt":
        return gpt(**GPT), Tokens(), BatchConfig(16, 2, 8)
    layers = [PlannedSleep(number, options) for number in range(options.layers)]
    return Model(layers, SquaredError(), 0, (16,)), Ones(), BatchConfig(16, 1, 16)


def chosen(plans: list[Plan], kind: str) -> list[Plan]:
    """All layouts; of slept ones those that differ in more than what is shared or recomputed."""
    if kind == "gpt":
        return plans
    return [
        plan
        for plan in plans
        if plan.layout.parallel.zero in (0, 1) and not plan.layout.parallel.recompute
    ]


def most_bytes(model: ParallelModel) -> dict[str, int]:
    """The bytes of the arrays of the rank that has most, by what they are for. Collective."""
    mine = asdict(model.bytes())
    every = model.comm.allgather(np.array([list(mine.values())])).tolist()
    return dict(zip(mine, max(every, key=sum), strict=True))


class Run:
    """A layout that is trained."""

    def __init__(
        self,
        plain: Model,
        plan: Plan,
        batch: BatchConfig,
        comm: hpcpar.Communicator,
        part: Any,
        reproducible: str,
    ) -> None:
        parallel = plan.layout.parallel
        self.mesh = hpcpar.Mesh(comm, **parallel.sizes(comm.size))
        self.model: ParallelModel = parallelize(
            plain, self.mesh, parallel, batch, reproducible=reproducible
        )
        self.model.initialize(0)
        self.comm, self.part, self.samples = comm, part, np.arange(batch.size)
        self.seconds: list[float] = []

    def step(self) -> None:
        """One step, timed from the first rank's start to the last one's end."""
        self.comm.barrier()
        start = time.perf_counter()
        self.model.loss_and_gradients(self.part, self.samples)
        self.model.update.norm()
        self.model.update.step(1e-4, 1.0)
        self.comm.barrier()
        self.seconds.append(time.perf_counter() - start)


if __name__ == "__main__":
    main()
