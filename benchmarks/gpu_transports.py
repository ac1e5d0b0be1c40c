"""How GPU arrays travel: staged against its slowest stage, and the ways of an allreduce in turn.

    python benchmarks/gpu_transports.py                   # 2 ranks, 9 rounds, 4 KB to 256 MB
    python benchmarks/gpu_transports.py --ranks 4         # ranks share cards where they must
    python benchmarks/gpu_transports.py --short

A round does everything once, one after the other; a time is the median over the rounds, each the
time of the rank that took longest, from a barrier on. The stages of a staged send from rank 0 to
rank 1 are timed alone, in the same chunks: copies to the host, messages from pinned to pinned
memory, copies to the GPU. Then an allreduce of float32 goes by every backend that there is, by
NCCL's own algorithm, and in symmetric arrays (CUDA IPC), in the columns of nccl-tests: algbw is
size / time, busbw is algbw * 2 (n - 1) / n. Without a GPU nothing is measured.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

from hpcpar.comm import Communicator
from hpcpar.device import Device
from hpcpar.errors import UserError

SIZES = (4096, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)
LIMIT = 580  # seconds for the launch


def main() -> int:
    options = parse()
    if options.worker:
        return worker(options)
    console = Console(width=100)
    try:
        Device.resolve("cuda", 0)
    except UserError as error:
        console.print(f"Nothing is measured: {error}", markup=False)
        return 0
    words = ["--worker", "--rounds", options.rounds, "--sizes", *options.sizes]
    rows = json_lines(launch(mpirun(options.ranks, __file__, *words), LIMIT))
    stages = [row for row in rows if row["kind"] == "stages"]
    ways = [row for row in rows if row["kind"] == "allreduce"]
    left_out = [row for row in rows if row["kind"] == "left out"]
    console.print(stages_table(stages))
    console.print(allreduce_table(ways, options.ranks))
    for row in left_out:
        console.print(f"left out: {row['words']}", markup=False)
    report = {"ranks": options.ranks, "rounds": options.rounds, "stages": stages, "allreduce": ways}
    write(options.json, report | {"left_out": left_out} | provenance())
    console.print(f"written: {options.json}")
    return int(any(row["wrong"] for row in ways))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    parser.add_argument("--short", action="store_true", help="2 rounds of two sizes")
    parser.add_argument("--json", type=Path, default=Path("results/gpu_transports.json"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.rounds, options.sizes = 2, (1 << 16, 1 << 24)
    if options.ranks < 2:
        parser.error("--ranks: at least two ranks have something to send")
    return options


def worker(options: argparse.Namespace) -> int:
    """A rank of the launch."""
    host = Communicator(device="cpu")
    for size in options.sizes:
        with Communicator(device="cuda", backend="staged") as comm:
            calls = stages(comm, host, size)
            row = {name: measure(host, call, options.rounds) for name, call in calls.items()}
        say(host, kind="stages", size=size, seconds=row)
    for way in ("staged", "mpi", "nccl", "NCCL's own", "symmetric"):
        allreduces(host, way, options)
    host.close()
    return 0


def stages(comm: Communicator, host: Communicator, size: int) -> dict[str, Callable[[], object]]:
    """The stages of a send from rank 0 to rank 1, and the send; other ranks only look on."""
    from hpcpar.comm.transports.cuda import CudaGpu
    from hpcpar.comm.transports.staged import CHUNK

    gpu = CudaGpu()
    stream, pinned = gpu.stream(), gpu.pinned(size)
    array = comm.device.xp.zeros(size, np.uint8)
    array[...] = 1
    comm.device.synchronize()
    chunks = [slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]

    def down() -> None:
        if comm.rank == 0:
            for chunk in chunks:
                stream.to_host(pinned[chunk], array[chunk])
            finish(stream.event())

    def up() -> None:
        if comm.rank == 1:
            for chunk in chunks:
                stream.to_device(array[chunk], pinned[chunk])
            finish(stream.event())

    def send(by: Communicator, what: Any) -> None:
        if by.rank == 0:
            by.send(what, 1)
        elif by.rank == 1:
            by.recv(what, 0)

    return {
        "to the host": down,
        "message": lambda: send(host, pinned),
        "to the GPU": up,
        "staged": lambda: send(comm, array),
    }


def finish(event: Any) -> None:
    while not event.done:
        pass


def allreduces(host: Communicator, way: str, options: argparse.Namespace) -> None:
    """All sizes by one way, or a word why there are none."""
    backend = {"NCCL's own": "nccl", "symmetric": "auto"}.get(way, way)
    algorithm = {"NCCL's own": "nccl", "symmetric": "symmetric"}.get(way, "auto")
    try:
        comm = Communicator(device="cuda", backend=backend)
    except UserError as error:
        say(host, kind="left out", words=f"{way}: {error}")
        return
    total = sum(range(1, comm.size + 1))
    with comm:
        for size in options.sizes:
            count = size // 4
            try:
                x = (
                    comm.symmetric(count)
                    if way == "symmetric"
                    else comm.device.xp.empty(count, "f4")
                )
            except MemoryError as error:
                say(host, kind="left out", words=f"{way}: {error}")
                return
            local = getattr(x, "local", x)

            def touch(local: Any = local) -> None:
                local[...] = comm.rank + 1
                comm.device.synchronize()

            def call(x: Any = x) -> None:
                comm.allreduce(x, out=x, algorithm=algorithm)

            seconds = measure(host, call, options.rounds, touch)
            mine = np.array([int((local != total).sum())])
            wrong = int(host.allreduce(mine)[0])
            say(host, kind="allreduce", way=way, size=size, seconds=seconds, wrong=wrong)


def measure(
    host: Communicator,
    call: Callable[[], object],
    rounds: int,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Seconds: the median over the rounds of the rank that took longest; the first is left out."""
    times = []
    for _ in range(rounds + 1):
        before()
        host.barrier()
        start = time.perf_counter()
        call()
        taken = np.array([time.perf_counter() - start])
        times.append(float(host.allreduce(taken, "max")[0]))
    return statistics.median(times[1:])


def say(host: Communicator, **row: object) -> None:
    """A line for the one who launched us."""
    if host.rank == 0:
        print(json.dumps(row), flush=True)


def stages_table(rows: list[dict[str, Any]]) -> Table:
    names = ("to the host", "message", "to the GPU", "staged")
    table = Table(title="A staged send and its stages alone, microseconds (measured)")
    for column in ("size", *names, "staged / slowest"):
        table.add_column(column, justify="right")
    for row in rows:
        seconds = row["seconds"]
        ratio = seconds["staged"] / max(seconds[name] for name in names[:3])
        figures = (f"{seconds[name] * 1e6:,.1f}" for name in names)
        table.add_row(f"{row['size']:,}", *figures, f"{ratio:.2f}")
    return table


def allreduce_table(rows: list[dict[str, Any]], ranks: int) -> Table:
    table = Table(title=f"allreduce, float32, sum, in place, {ranks} ranks (measured)")
    for column in ("size (B)", "by", "time (us)", "algbw (GB/s)", "busbw (GB/s)", "#wrong"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: row["size"]):
        algbw = row["size"] / row["seconds"] / 1e9
        busbw = algbw * 2 * (ranks - 1) / ranks
        figures = (f"{row['seconds'] * 1e6:,.1f}", f"{algbw:.3f}", f"{busbw:.3f}")
        table.add_row(f"{row['size']:,}", row["way"], *figures, str(row["wrong"]))
    return table


if __name__ == "__main__":
    sys.exit(main())
