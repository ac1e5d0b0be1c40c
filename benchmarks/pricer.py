"""The pricer against an independent simulator, and against what this machine measures.

    python benchmarks/pricer.py                 # both parts; SimGrid needs some minutes
    python benchmarks/pricer.py --short         # small cases, 5 rounds
    python benchmarks/pricer.py --skip simgrid  # or measured

Against SimGrid (`apt-get install python3-simgrid`): the same schedules, latencies and bandwidths,
by peers/simgrid_collectives.py. Against measurement: allreduce(algorithm="direct") on 2 ranks of
this machine, 64 KB to 64 MB of float32. What the pricer is told comes from probes in the same run,
in turn with the allreduce: a chain of tiny messages (latency, start of a call), a sendrecv of half
as many bytes (seconds a byte), an addition of as many (seconds a byte). Nothing is fitted to the
allreduce itself.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

from hpcpar import Communicator
from hpcpar.schedule import Recv, Send, Span, Step
from hpcpar.schedule.collectives import allreduce
from hpcpar.schedule.exchange import piece, stages
from hpcpar.schedule.price import Link, Network, price
from hpcpar.schedule.steps import dependencies

SIMGRID_PYTHON = "/usr/bin/python3"  # Debian's, which sees python3-simgrid
INSIDE, BETWEEN = Link(1e-6, 10e9), Link(5e-6, 12.5e9 / 8)
COMBINE = 1e-10  # seconds a byte
ITEM = 4  # bytes of float32
SEGMENT = 1 << 18
WHOLE = 1 << 40  # a segment that no array fills: one message, whatever its length
SIZES = [1 << k for k in range(16, 27)]  # bytes
HOPS = 100  # in the chain of tiny messages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="small cases, 5 rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skip", choices=("simgrid", "measured"))
    parser.add_argument("--json", type=Path, default=Path("results/pricer.json"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 5 if options.short else options.rounds
    if options.measure:
        measure(rounds)
        return 0
    console, report = Console(width=100), provenance()
    if options.skip != "simgrid":
        if has_simgrid():
            report["simgrid"] = against_simgrid(console, options.short)
        else:
            console.print("SimGrid is not installed here: apt-get install python3-simgrid")
    if options.skip != "measured":
        report["two_ranks"] = against_measurement(console, rounds)
    write(options.json, report)
    console.print(f"written: {options.json}")
    return 0


def cases(short: bool) -> list[tuple[str, int, int, int, int]]:
    """Algorithm, ranks, ranks of a node, bytes, elements in a message."""
    if short:
        return [
            ("ring", 16, 1, 1 << 20, WHOLE),
            ("halving", 32, 1, 1 << 24, WHOLE),
            ("halving", 13, 1, 1 << 22, 1 << 15),
            ("hierarchical", 32, 4, 1 << 24, SEGMENT),
        ]
    found = [("ring", 128, 1, size, WHOLE) for size in (1 << 20, 1 << 24, 1 << 26)]
    found += [("ring", 128, 8, 1 << 24, WHOLE)]
    for ranks in (64, 100, 256, 1000, 1024):
        found += [("halving", ranks, 1, size, WHOLE) for size in (1 << 20, 1 << 26)]
    found += [("halving", 64, 8, 1 << 24, WHOLE)]
    for ranks, local in ((64, 4), (128, 8), (256, 8), (512, 16), (1024, 16)):
        found += [("hierarchical", ranks, local, size, SEGMENT) for size in (1 << 20, 1 << 24)]
    return found


def against_simgrid(console: Console, short: bool) -> list[dict[str, Any]]:
    """Both simulators on the same schedules."""
    table = Table(title="allreduce: SimGrid and the pricer (both priced)")
    for column in ("algorithm", "ranks", "a node", "bytes", "SimGrid ms", "priced ms", "error"):
        table.add_column(column, justify="right")
    table.add_column("took s", justify="right")
    rows = []
    for algorithm, ranks, local, size, segment in cases(short):
        nodes = tuple(rank // local for rank in range(ranks))
        count = size // ITEM
        schedules = [
            allreduce(rank, ranks, count, algorithm, segment=segment, nodes=nodes)
            for rank in range(ranks)
        ]
        allreduce.cache_clear()
        began = time.perf_counter()
        network = Network(INSIDE, BETWEEN, combine=COMBINE)
        priced = price(schedules, network, nodes=nodes, item=ITEM).total
        took = time.perf_counter() - began
        simulated = simgrid(schedules, nodes)
        error = priced / simulated["seconds"] - 1
        rows.append(
            {"algorithm": algorithm, "ranks": ranks, "ranks_of_a_node": local, "bytes": size,
             "simgrid_seconds": simulated["seconds"], "priced_seconds": priced, "error": error,
             "pricer_took": took, "simgrid_took": simulated["wall"]}
        )  # fmt: skip
        table.add_row(
            algorithm, str(ranks), str(local), f"{size:,}", f"{simulated['seconds'] * 1e3:.4f}",
            f"{priced * 1e3:.4f}", f"{error:+.2%}", f"{simulated['wall']:.1f} : {took:.1f}",
        )  # fmt: skip
    console.print(table)
    errors = [abs(row["error"]) for row in rows]
    console.print(f"median error {statistics.median(errors):.2%}, largest {max(errors):.2%}\n")
    return rows


def simgrid(schedules: list[tuple[Step, ...]], nodes: tuple[int, ...]) -> dict[str, float]:
    """What SimGrid makes of the schedules."""
    case = {
        "inside": (INSIDE.latency, INSIDE.bandwidth),
        "between": (BETWEEN.latency, BETWEEN.bandwidth),
        "nodes": nodes,
        "programs": [program(steps) for steps in schedules],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(case, file)
        file.flush()
        output = launch([SIMGRID_PYTHON, PEERS / "simgrid_collectives.py", file.name], 600)
    return json_lines(output)[-1]


def program(steps: tuple[Step, ...]) -> list[tuple[int, tuple[int, ...], int, int, float]]:
    """The instructions that peers/simgrid_collectives.py describes."""
    found = []
    for step, waits in zip(steps, dependencies(steps), strict=True):
        if isinstance(step, Send):
            found.append((0, waits, step.to, len(step.span) * ITEM, 0.0))
        elif isinstance(step, Recv):
            found.append((1, waits, step.source, len(step.span) * ITEM, 0.0))
        else:
            found.append((2, waits, -1, 0, len(step.into) * ITEM * COMBINE))
    return found


def against_measurement(console: Console, rounds: int) -> list[dict[str, Any]]:
    """The allreduce of 2 ranks, priced by what the probes said, and measured."""
    output = launch(mpirun(2, __file__, "--measure", "--rounds", rounds), 600)
    rows = json_lines(output)
    table = Table(title=f"allreduce(algorithm='direct') on 2 ranks, medians of {rounds}")
    for column in ("bytes", "measured us", "priced us", "error", "call us", "hop us",
                   "exchange GB/s", "add GB/s"):  # fmt: skip
        table.add_column(column, justify="right")
    for row in rows:
        network = Network(
            Link(row["hop"], 1e15, receive=row["exchange"]), combine=row["combine"],
        )  # fmt: skip
        schedules = [allreduce(r, 2, row["bytes"] // ITEM, "direct", segment=SEGMENT)
                     for r in range(2)]  # fmt: skip
        row["priced_seconds"] = row["call"] + price(schedules, network, item=ITEM).total
        row["error"] = row["priced_seconds"] / row["measured_seconds"] - 1
        table.add_row(
            f"{row['bytes']:,}", f"{row['measured_seconds'] * 1e6:,.0f}",
            f"{row['priced_seconds'] * 1e6:,.0f}", f"{row['error']:+.1%}",
            f"{row['call'] * 1e6:.1f}", f"{row['hop'] * 1e6:.1f}",
            f"{1e-9 / row['exchange']:.2f}", f"{1e-9 / row['combine']:.2f}",
        )  # fmt: skip
    console.print(table)
    within = sum(abs(row["error"]) <= 0.25 for row in rows)
    console.print(f"within 25%: {within} of {len(rows)} sizes\n")
    return rows


def measure(rounds: int) -> None:
    """On 2 ranks: the probes and the allreduce, in turn; rank 0 prints a line for each size."""
    with Communicator() as comm:
        call, hop = latency(comm, rounds)
        for size in SIZES:
            count = size // ITEM
            x, out = np.ones(count, np.float32), np.zeros(count, np.float32)
            half, other = count // 2, 1 - comm.rank
            mine, arriving = x[:half], out[:half]

            def exchange(mine=mine, arriving=arriving, other=other) -> None:
                comm.sendrecv(mine, other, arriving, other)

            def combine(mine=mine, half=half, x=x, out=out) -> None:
                scratch = x[:SEGMENT]
                for i in range(stages((range(half),), SEGMENT)):
                    run = piece(range(half), i, SEGMENT)
                    np.add(
                        x[run.start : run.stop], scratch[: len(run)], out=out[run.start : run.stop]
                    )

            def reduce(x=x, out=out) -> None:
                comm.allreduce(x, out=out, algorithm="direct")

            taken = together(comm, rounds, exchange, combine, reduce)
            moved, pieces = half * ITEM, stages((range(half),), SEGMENT)
            if comm.rank == 0:
                row = {"bytes": size, "measured_seconds": taken[2], "call": call, "hop": hop,
                       "exchange": max(1e-13, taken[0] - call - pieces * hop) / moved,
                       "combine": taken[1] / moved}  # fmt: skip
                print(json.dumps(row), flush=True)


def latency(comm: Communicator, rounds: int) -> tuple[float, float]:
    """Seconds of a call that moves next to nothing, and of each further hop in it."""
    tokens = np.zeros(2 + HOPS, np.float32)

    def chain(hops: int) -> Callable[[], None]:
        other, steps = 1 - comm.rank, list[Step]()
        for k in range(hops):  # what is sent has arrived in the hop before
            steps += [Recv(other, Span("x", k + 1, k + 2)), Send(other, Span("x", k, k + 1))]
        schedule = tuple(steps)
        return lambda: comm.run(schedule, {"x": tokens})

    one, many = together(comm, 20 * rounds, chain(1), chain(1 + HOPS))
    hop = (many - one) / HOPS
    return one - hop, hop


def together(comm: Communicator, rounds: int, *works: Callable[[], None]) -> list[float]:
    """Median seconds of each, on the slower rank, taken in turn; two more rounds warm up."""
    times = np.zeros((rounds + 2, len(works)))
    for turn in times:
        for i, work in enumerate(works):
            comm.barrier()
            began = time.perf_counter()
            work()
            turn[i] = time.perf_counter() - began
    slower = comm.allreduce(times, "max")
    return [statistics.median(column) for column in slower[2:].T.tolist()]


def has_simgrid() -> bool:
    if not Path(SIMGRID_PYTHON).exists():
        return False
    try:
        launch([SIMGRID_PYTHON, "-c", "import simgrid"], 30)
    except SystemExit:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
