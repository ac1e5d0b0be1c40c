"""Collectives: hpcpar, MPI, gloo and NCCL in turn, in the columns of nccl-tests.

    python benchmarks/collectives.py                        # 9 rounds, 2 and 4 ranks, 8 B to 64 MB
    python benchmarks/collectives.py --ranks 2 --operations allreduce bcast --sizes 1048576
    python benchmarks/collectives.py --two-nodes            # over a link of 1 Gbit/s; takes root
    python benchmarks/collectives.py --short

A round starts every competitor once, one after the other; a figure is the median over the rounds
of the medians of the launches (peers/measure.py has the loop that times them all). "Best MPI" is
the best of Open MPI's default, its forced algorithms and MPICH for that size and number of ranks.

A size is the bytes of a rank's largest array; algbw is size / time; busbw is algbw times the factor
of nccl-tests, which makes it comparable with the hardware for any number of ranks. #wrong counts
the elements, on all ranks, that are not what they must be. The limit of an allreduce on one node is
a copy of as many bytes by every rank at the same time, for it reads each input and writes each
result at least once; between two nodes it is a raw socket that moves the same bytes.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collectives_competitors import OPERATIONS, Competitor, one_node, two_nodes
from collectives_plot import draw
from common import PEERS, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

SIZES = (8, 64, 512, 4096, 1 << 15, 1 << 18, 1 << 21, 1 << 24, 1 << 26)
SMALL = 4096  # bytes up to which hpcpar and MPI_Allreduce are compared call by call
REDUCTIONS = ("allreduce", "allreduce in place", "reduce", "reduce_scatter")
LIMIT = 600  # seconds for one launch

Rows = dict[tuple[int, str, int, str], dict[str, Any]]  # by ranks, operation, size, competitor


def main() -> int:
    options = parse()
    console = Console(width=120)
    if options.two_nodes:
        competitors, words = two_nodes(options.short)
    else:
        competitors, words = one_node(options.device, options.short)
    left_out, rows, small = dict.fromkeys(words), Rows(), Rows()
    for number in range(options.rounds):
        console.print(f"round {number + 1} of {options.rounds}", style="dim")
        for ranks in options.ranks:
            for operations, sizes in cases(options):
                for competitor in competitors:
                    run(competitor, ranks, operations, sizes, options, rows, left_out)
            if (
                "allreduce" in options.operations
                and options.device == "cpu"
                and not options.two_nodes
            ):
                compare_small(ranks, options.sizes, small)
    report = {
        **provenance(),
        "rounds": options.rounds,
        "short": options.short,
        "rows": [finish(row, competitors) for row in rows.values()],
        "small": [finish_small(row) for row in small.values()],
        "left_out": list(left_out),
    }
    for table in tables(report):
        console.print(table)
    for words in left_out:
        console.print(f"left out: {words}")
    write(options.json, report)
    console.print(f"written: {options.json}")
    if not options.two_nodes:
        draw(report, picture := options.json.with_suffix(".svg"))
        console.print(f"written: {picture}")
    return int(any(row["wrong"] for row in report["rows"] + report["small"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", help="bytes")
    parser.add_argument("--ranks", type=int, nargs="+")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--two-nodes", action="store_true", help="allreduce 16 MB, bcast 64 MB")
    parser.add_argument("--short", action="store_true", help="1 round, few sizes and competitors")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    few = ["allreduce", "allreduce in place", "bcast"]
    options.rounds = options.rounds or (1 if options.short else 9)
    if options.two_nodes:
        options.operations = [
            name for name in ("allreduce", "bcast") if name in (options.operations or few)
        ]
        options.ranks = options.ranks or [4]
        options.json = options.json or Path("results/collectives_two_nodes.json")
    else:
        options.operations = options.operations or (few if options.short else [*OPERATIONS])
        options.sizes = options.sizes or ([8, 1 << 16] if options.short else [*SIZES])
        options.ranks = options.ranks or ([2] if options.short else [2, 4])
        options.json = options.json or Path("results/collectives.json")
    return options


def cases(options: argparse.Namespace) -> Iterator[tuple[list[str], list[int]]]:
    """Operations and sizes that go into one launch of a competitor."""
    if not options.two_nodes:
        yield [*options.operations, "copy"], options.sizes
        return
    for operation in options.operations:
        usual = {"allreduce": 1 << 24, "bcast": 1 << 26}[operation]
        yield [operation], options.sizes or [usual >> 2 if options.short else usual]


def run(
    competitor: Competitor,
    ranks: int,
    operations: list[str],
    sizes: list[int],
    options: argparse.Namespace,
    rows: Rows,
    left_out: dict[str, None],
) -> None:
    """One launch of a competitor; every figure goes to its row."""
    own = [name for name in operations if name in competitor.operations]
    if not own:
        return
    nodes = 2 if options.two_nodes else 1
    command = competitor.command(ranks, own, sizes, options.dtype, nodes)
    for found in json_lines(launch(command, LIMIT, dict(competitor.env))):
        if "left_out" in found:
            left_out[f"{competitor.name}: {found['left_out']}"] = None
            continue
        key = (ranks, found["operation"], found["size"], competitor.name)
        row = rows.setdefault(key, {"ranks": ranks, "algorithm": competitor.name} | found)
        row["seconds_of_rounds"] = [*row.get("seconds_of_rounds", []), found["seconds"]]
        row["wrong"] = max(row["wrong"], found["wrong"])


def compare_small(ranks: int, sizes: list[int], small: Rows) -> None:
    """Up to 4 KB: hpcpar and MPI_Allreduce, 2,000 calls each in one launch, in turn by blocks."""
    chosen = [size for size in sizes if size <= SMALL]
    program = PEERS / "small_allreduce.py"
    command = mpirun(ranks, program, "--sizes", *chosen)
    for found in json_lines(launch(command, LIMIT)) if chosen else ():
        key = (ranks, "allreduce", found["size"], "small")
        row = small.setdefault(key, {"ranks": ranks, "size": found["size"], "wrong": 0})
        row["wrong"] = max(row["wrong"], found["wrong"])
        for name, seconds in found["seconds"].items():
            row.setdefault(name, []).append(seconds)


def finish(row: dict[str, Any], competitors: list[Competitor]) -> dict[str, Any]:
    """A row with its medians and bandwidths."""
    ranks, seconds = row["ranks"], statistics.median(row["seconds_of_rounds"])
    algbw = row["size"] / seconds / 1e9
    return row | {
        "redop": "sum" if row["operation"] in REDUCTIONS else "none",
        "mpi": next(c.mpi for c in competitors if c.name == row["algorithm"]),
        "seconds": seconds,
        "algbw": algbw,
        "busbw": algbw * bus_factor(row["operation"], ranks),
        "measured": True,
    }


def bus_factor(operation: str, ranks: int) -> float:
    """busbw / algbw (nccl-tests, doc/PERFORMANCE.md)."""
    if operation.startswith("allreduce"):
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if operation in ("reduce_scatter", "allgather", "alltoall") else 1


def finish_small(row: dict[str, Any]) -> dict[str, Any]:
    """A row of small arrays, with the difference of the medians."""
    ours, theirs = statistics.median(row["hpcpar"]), statistics.median(row["MPI"])
    return row | {"difference": ours - theirs, "measured": True}


def best_mpi(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest MPI among the rows of a case."""
    return min((row for row in rows if row["mpi"]), key=lambda row: row["seconds"], default=None)


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """A table for every operation and number of ranks, and one of the small arrays."""
    rows = report["rows"]
    for ranks, operation in dict.fromkeys((row["ranks"], row["operation"]) for row in rows):
        table = Table(title=f"{operation}, {ranks} ranks (measured; * is the best MPI)")
        for column in ("size (B)", "count", "type", "redop", "algorithm", "time (us)"):
            table.add_column(column, justify="left" if column == "algorithm" else "right")
        for column in ("algbw (GB/s)", "busbw (GB/s)", "#wrong", "/ best MPI", "/ limit"):
            table.add_column(column, justify="right")
        chosen = [row for row in rows if (row["ranks"], row["operation"]) == (ranks, operation)]
        copies = {
            row["size"]: row for row in rows if (row["ranks"], row["operation"]) == (ranks, "copy")
        }
        for size in sorted({row["size"] for row in chosen}):
            case = [row for row in chosen if row["size"] == size]
            best = best_mpi(case)
            limits = [row for row in case if row["algorithm"] == "limit"]
            if operation.startswith("allreduce") and size in copies:
                limits.append(copies[size])
            for row in case:
                mark = " *" if row is best else ""
                ratios = (
                    f"{row['seconds'] / other['seconds']:.3f}" if other else ""
                    for other in (best, limits[0] if limits else None)
                )
                table.add_row(
                    f"{size:,}", f"{row['count']:,}", row["dtype"], row["redop"],
                    row["algorithm"] + mark, f"{1e6 * row['seconds']:,.1f}",
                    f"{row['algbw']:.3f}", f"{row['busbw']:.3f}", str(row["wrong"]), *ratios,
                )  # fmt: skip
            table.add_section()
        yield table
    if report["small"]:
        table = Table(title="allreduce of small arrays, call by call: medians in us (measured)")
        for column in ("ranks", "size (B)", "hpcpar", "MPI_Allreduce", "difference", "#wrong"):
            table.add_column(column, justify="right")
        for row in report["small"]:
            ours, theirs = (1e6 * statistics.median(row[name]) for name in ("hpcpar", "MPI"))
            numbers = (f"{ours:.2f}", f"{theirs:.2f}", f"{ours - theirs:+.2f}")
            table.add_row(str(row["ranks"]), f"{row['size']:,}", *numbers, str(row["wrong"]))
        yield table


if __name__ == "__main__":
    sys.exit(main())
