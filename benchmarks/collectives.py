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
a copy of as many bytes by every rank at the same time and a barrier, for it reads each input and
writes each result at least once; between two nodes it is a raw socket that moves the same bytes.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collectives_competitors import OPERATIONS, Competitor, one_node, two_nodes
from collectives_plot import draw
from common import PEERS, LaunchError, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

SIZES = (8, 64, 512, 4096, 1 << 15, 1 << 18, 1 << 21, 1 << 24, 1 << 26)
SMALL = 4096  # bytes up to which hpcpar and MPI_Allreduce are compared call by call
REDUCTIONS = ("allreduce", "allreduce in place", "reduce", "reduce_scatter")
LIMIT, SHORT_LIMIT = 300, 60  # seconds for one launch

Row = dict[str, Any]
Case = tuple[int, str, int, str]  # ranks, operation, size, competitor


def main() -> int:
    options = parse()
    console = Console(width=120)
    results = Results(options)
    for number in range(options.rounds):
        console.print(f"round {number + 1} of {options.rounds}", style="dim")
        for ranks in options.ranks:
            results.measure(ranks)
    report = results.report()
    for table in tables(report):
        console.print(table)
    for words in report["left_out"]:
        console.print(f"left out: {words}", markup=False)
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


class Results:
    """The competitors, and what was measured so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.limit = SHORT_LIMIT if options.short else LIMIT
        found = (
            two_nodes(options.short)
            if options.two_nodes
            else one_node(options.device, options.short)
        )
        self.competitors, words = found
        self.left_out = dict.fromkeys(words)
        self.rows: dict[Case, Row] = {}
        self.small: dict[tuple[int, int], Row] = {}  # by ranks and size

    def measure(self, ranks: int) -> None:
        """A part of a round: every competitor once, on so many ranks."""
        for operations, sizes in self._launches():
            for competitor in list(self.competitors):
                own = [name for name in operations if name in competitor.operations]
                try:
                    if own:
                        self._launch(competitor, ranks, own, sizes)
                except LaunchError as error:
                    if not competitor.peer:
                        raise
                    self.competitors.remove(competitor)
                    self.left_out[f"{competitor.name}: {error}"] = None
        if not self.options.two_nodes and self.options.device == "cpu":
            self._compare_small(ranks)

    def report(self) -> dict[str, Any]:
        """Everything, for the JSON file."""
        return {
            **provenance(),
            "rounds": self.options.rounds,
            "short": self.options.short,
            "rows": [finish(row) for row in self.rows.values()],
            "small": [finish_small(row) for row in self.small.values()],
            "left_out": list(self.left_out),
        }

    def _launches(self) -> Iterator[tuple[list[str], list[int]]]:
        """Operations and sizes that go into one launch of a competitor."""
        options = self.options
        if not options.two_nodes:
            yield [*options.operations, "copy", "copy in place"], options.sizes
            return
        for operation in options.operations:
            usual = {"allreduce": 1 << 24, "bcast": 1 << 26}[operation]
            yield [operation], options.sizes or [usual >> 2 if options.short else usual]

    def _launch(
        self, competitor: Competitor, ranks: int, operations: list[str], sizes: list[int]
    ) -> None:
        """Start a competitor; every figure goes to its row."""
        nodes = 2 if self.options.two_nodes else 1
        command = competitor.command(ranks, operations, sizes, self.options.dtype, nodes)
        for found in json_lines(launch(command, self.limit, dict(competitor.env))):
            if "left_out" in found:
                self.left_out[f"{competitor.name}: {found['left_out']}"] = None
                continue
            case = (ranks, found["operation"], found["size"], competitor.name)
            about = {"ranks": ranks, "algorithm": competitor.name, "mpi": competitor.mpi}
            row = self.rows.setdefault(case, about | found)
            row["seconds_of_rounds"] = [*row.get("seconds_of_rounds", []), found["seconds"]]
            row["wrong"] = max(row["wrong"], found["wrong"])

    def _compare_small(self, ranks: int) -> None:
        """hpcpar and MPI_Allreduce, 2,000 calls each in one launch, in turn by blocks."""
        sizes = [size for size in self.options.sizes if size <= SMALL]
        if not sizes or "allreduce" not in self.options.operations:
            return
        command = mpirun(ranks, PEERS / "small_allreduce.py", "--sizes", *sizes)
        for found in json_lines(launch(command, self.limit)):
            about = {"ranks": ranks, "size": found["size"], "wrong": 0}
            row = self.small.setdefault((ranks, found["size"]), about)
            row["wrong"] = max(row["wrong"], found["wrong"])
            for name, seconds in found["seconds"].items():
                row.setdefault(name, []).append(seconds)


def finish(row: Row) -> Row:
    """A row with its medians and bandwidths."""
    ranks, seconds = row["ranks"], statistics.median(row["seconds_of_rounds"])
    algbw = row["size"] / seconds / 1e9
    return row | {
        "redop": "sum" if row["operation"] in REDUCTIONS else "none",
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


def finish_small(row: Row) -> Row:
    """A row of small arrays, with the difference of the medians."""
    ours, theirs = statistics.median(row["hpcpar"]), statistics.median(row["MPI"])
    return row | {"difference": ours - theirs, "measured": True}


def best_mpi(rows: list[Row]) -> Row | None:
    """The fastest MPI among the rows of a case."""
    return min((row for row in rows if row["mpi"]), key=lambda row: row["seconds"], default=None)


def limit_of(rows: list[Row], row: Row) -> Row | None:
    """The row of the limit for a row's case: for an allreduce on one node it is a copy."""
    operation = row["operation"]
    for name in (operation, operation.replace("allreduce", "copy")):
        for other in rows:
            case = (other["algorithm"], other["operation"], other["ranks"], other["size"])
            if case == ("limit", name, row["ranks"], row["size"]):
                return other
    return None


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
        for size in sorted({row["size"] for row in chosen}):
            case = [row for row in chosen if row["size"] == size]
            best, least = best_mpi(case), limit_of(rows, case[0])
            for row in case:
                mark = " *" if row is best else ""
                ratios = (
                    f"{row['seconds'] / other['seconds']:.3f}" if other else ""
                    for other in (best, least)
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
