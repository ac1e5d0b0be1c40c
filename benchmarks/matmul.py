"""Distributed products: hpcpar, one process of NumPy, ScaLAPACK and pylops-mpi in turn.

    python benchmarks/matmul.py                       # the four shapes, 2 and 4 ranks, 9 rounds
    python benchmarks/matmul.py --short               # small, 1 round
    python benchmarks/matmul.py --cases 2000,2000,2000 --ranks 2 --algorithms data summa
    python benchmarks/matmul.py --scaling weak --ranks 1 2 4 --cases 2048,2048,2048
    python benchmarks/matmul.py --priced              # words and seconds to 4,096 ranks, no run

A row is what SLATE's tester prints: algorithm, grid, type, m n k, least and median time, GF/s, the
share of what the cores do in local products, words that come to the rank that gets most (as
predicted), measured over predicted for all ranks, over the lower bound, extra bytes, residual
|(C - AB) x| / (sqrt(k) |A| |B| |x| eps), status. Each rank has one thread. Competitors that are not
there are left out, with a word: ScaLAPACK (Debian: libscalapack-openmpi2.2, openmpi-bin and
libopenblas0-serial, for it stands on the system's BLAS) and pylops-mpi (--peer-python, a Python
that has it).
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import PEERS, LaunchError, has, json_lines, launch, mpirun, provenance, write
from matmul_plot import RANKS, plot, price_curves
from peers.loaded_blas import REFERENCE
from rich.console import Console
from rich.table import Table

CASES = ("4096,4096,4096", "8192,8192,256", "512,512,65536", "65536,512,512")
SHORT = ("256,256,256", "512,32,16")
BLOCKS = (64, 128, 256, 512)  # of ScaLAPACK; the best one counts
SCALAPACK = ("libscalapack-openmpi.so.2.2", "libscalapack-openmpi.so")
LIMIT = 600  # seconds for one launch

Measure = Callable[[], list[dict[str, Any]]]


def main() -> int:
    options = parse()
    console = Console(width=190)
    if options.priced:
        curves = price_curves(options.cases, RANKS[:: 4 if options.short else 1])
        write(options.json, {**provenance(), "measured": False, "priced": True, "curves": curves})
        plot(options.json.with_suffix(".svg"), curves=curves)
        console.print(f"priced, not measured; written: {options.json}")
        return 0
    rows: list[dict[str, Any]] = []
    for ranks in options.ranks:
        found = competitors(options, ranks, console)
        times: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in range(options.rounds):
            console.print(f"{ranks} ranks, round {number + 1} of {options.rounds}")
            for name, measure in found.items():
                try:
                    lines = measure()
                except LaunchError as error:
                    console.print(f"{name} is left out: {str(error)[-400:]}")
                    lines = []
                for line in lines:
                    case = ",".join(map(str, line["case"]))
                    times.setdefault((case, name), []).append(line)
        rows += summary(times, ranks, options)
    show(rows, console)
    write(options.json, {**provenance(), "rounds": options.rounds, "rows": rows})
    plot(options.json.with_suffix(".svg"), rows=rows)
    console.print(f"written: {options.json}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", help="m,n,k")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--algorithms", nargs="+", default=["auto", "data", "model", "summa", "auto by messages"]
    )
    parser.add_argument("--grids", nargs="+", default=[], help="p,q,r: these too")
    parser.add_argument("--tiles", help="m,n,k: hpcpar with tiles too")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with pylops-mpi")
    parser.add_argument("--short", action="store_true", help="1 round of small cases, few prices")
    parser.add_argument(
        "--scaling", choices=("strong", "weak"), default="strong",
        help="weak: m grows with the ranks",
    )  # fmt: skip
    parser.add_argument("--priced", action="store_true", help="curves to 4,096 ranks, by the model")
    parser.add_argument("--json", type=Path, default=Path("results/matmul.json"))
    options = parser.parse_args()
    options.cases = options.cases or (SHORT if options.short else CASES)
    options.rounds = 1 if options.short else options.rounds
    options.ranks = [2] if options.short else options.ranks
    return options


def competitors(options: argparse.Namespace, ranks: int, console: Console) -> dict[str, Measure]:
    """What is timed, by name, and how."""
    scale = ranks if options.scaling == "weak" else 1
    shapes = [tuple(map(int, case.split(","))) for case in options.cases]
    grown = [f"{m * scale},{n},{k}" for m, n, k in shapes]
    cases = ["--cases", *grown, "--dtype", options.dtype]
    cores = min(ranks, os.cpu_count() or 1)

    def ours(*extra: object) -> Measure:
        program = [PEERS / "product_hpcpar.py", *cases, "--device", options.device, *extra]
        return lambda: json_lines(launch(mpirun(ranks, *program), LIMIT))

    def numpy() -> list[dict[str, Any]]:
        threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        command = [sys.executable, PEERS / "product_numpy.py", *cases]
        return json_lines(launch(command, LIMIT, env=threads))

    found: dict[str, Measure] = {}
    for name in options.algorithms:
        algorithm, _, way = name.partition(" by ")
        found[f"hpcpar, {name}"] = ours(
            "--algorithm", algorithm, *(["--by-messages"] if way else [])
        )
    for grid in options.grids:
        found[f"hpcpar, {grid.replace(',', ' x ')}"] = ours("--grid", grid)
    if options.tiles:
        found[f"hpcpar, tiles {options.tiles}"] = ours("--tiles", options.tiles)
    if options.device == "cuda":
        for name in ("cupy", "nvmath"):
            if has(name):
                program = [PEERS / "product_gpu.py", *cases, "--library", name]
                found[f"{name}, one GPU"] = partial(one_gpu, program)
            else:
                console.print(f"{name} is left out: it is not installed")
    else:
        found[f"NumPy, {cores} threads"] = numpy
        found |= scalapack(options, ranks, cases, console)
        if not has("pylops_mpi", options.peer_python):
            console.print("pylops-mpi is left out: it is not installed (see --peer-python)")
        elif int(ranks**0.5) ** 2 != ranks:
            console.print(f"pylops-mpi is left out: {ranks} ranks are no square")
        else:
            program = [PEERS / "product_pylops.py", *cases]
            found["pylops-mpi"] = lambda: json_lines(
                launch(mpirun(ranks, *program, python=options.peer_python), LIMIT)
            )
    return found


def one_gpu(program: list[object]) -> list[dict[str, Any]]:
    return json_lines(launch([sys.executable, *program], LIMIT))


def scalapack(
    options: argparse.Namespace, ranks: int, cases: list[str], console: Console
) -> dict[str, Measure]:
    """ScaLAPACK with blocks of several sizes, where the system has it."""
    start = shutil.which("mpirun.openmpi")
    library, blas = next(((name, blas) for name in SCALAPACK if (blas := blas_of(name))), ("", ""))
    if start is None or not blas or options.dtype not in ("float32", "float64"):
        console.print("ScaLAPACK is left out: no library, no mpirun of its own, or no such type")
        return {}
    if blas == REFERENCE:
        console.print(
            "ScaLAPACK is left out: it stands on the reference BLAS here, which nobody would use; "
            "install libopenblas0-serial"
        )
        return {}

    def with_blocks(size: int) -> Measure:
        def measure() -> list[dict[str, Any]]:
            with tempfile.TemporaryDirectory() as folder:
                program = [PEERS / "product_scalapack.py", *cases, "--library", library]
                command = [
                    start, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                    "-n", ranks, sys.executable, *program, "--block", size, "--folder", folder,
                ]  # fmt: skip
                return json_lines(launch(command, LIMIT))

        return measure

    sizes = BLOCKS[:1] if options.short else BLOCKS
    return {f"ScaLAPACK ({blas}), blocks of {size}": with_blocks(size) for size in sizes}


def blas_of(library: str) -> str:
    """The BLAS that a library of the system stands on; empty where it cannot be loaded."""
    try:
        (found,) = json_lines(launch([sys.executable, PEERS / "loaded_blas.py", library], 20))
    except LaunchError:
        return ""
    return str(found["blas"])


def summary(
    times: dict[tuple[str, str], list[dict[str, Any]]], ranks: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row a case and competitor: the median over rounds of each round's median call."""
    rows = []
    for (case, name), lines in times.items():
        m, n, k = map(int, case.split(","))
        rounds = [statistics.median(line["seconds"]) for line in lines]
        seconds = statistics.median(rounds)
        last = lines[-1]
        rows.append({
            "algorithm": name, "ranks": ranks, "dtype": options.dtype, "m": m, "n": n, "k": k,
            "grid": last.get("grid"), "block": last.get("block"),
            "least": min(min(line["seconds"]) for line in lines), "seconds": seconds,
            "seconds_of_rounds": rounds, "gflops": 2 * m * n * k / seconds / 1e9,
            **{key: last.get(key) for key in (
                "words", "words_measured", "words_predicted", "bound", "extra",
                "predicted_seconds", "residual",
            )},
            "status": "pass" if last["residual"] < 3 else "FAILED", "measured": True,
        })  # fmt: skip
    for row in rows:
        same = [r for r in rows if (r["m"], r["n"], r["k"]) == (row["m"], row["n"], row["k"])]
        alone = [r["seconds"] for r in same if r["algorithm"].startswith("NumPy")]
        row["of_numpy"] = alone[0] / row["seconds"] if alone else None
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="C = A B, one thread a rank (measured)")
    for column in (
        "algorithm", "ranks", "grid", "type", "m", "n", "k", "least (ms)", "median (ms)", "GF/s",
        "/ NumPy", "words", "measured / predicted", "/ bound", "extra (MB)", "residual", "status",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("algorithm", "status") else "right")
    before = None
    for row in sorted(rows, key=lambda r: (r["ranks"], r["m"], r["n"], r["k"])):
        case = row["ranks"], row["m"], row["n"], row["k"]
        if before not in (None, case):
            table.add_section()
        before = case
        words = row["words"]
        predicted = row["words_predicted"]
        table.add_row(
            row["algorithm"], str(row["ranks"]),
            " x ".join(map(str, row["grid"])) if row["grid"] else "", row["dtype"],
            *(f"{row[name]}" for name in "mnk"),
            f"{1e3 * row['least']:,.1f}", f"{1e3 * row['seconds']:,.1f}", f"{row['gflops']:,.1f}",
            f"{row['of_numpy']:.3f}" if row["of_numpy"] else "",
            f"{words:,}" if words is not None else "",
            (f"{row['words_measured'] / predicted:.3f}" if predicted else "0 / 0")
            if words is not None else "",
            f"{words / row['bound']:.2f}" if words is not None and row["bound"] else "",
            f"{row['extra'] / 1e6:,.1f}" if row["extra"] is not None else "",
            f"{row['residual']:.1e}", row["status"],
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
