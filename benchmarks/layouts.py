"""What layouts of ranks cost: pipelines, and sums of gradients behind backward.

    python benchmarks/layouts.py                        # pipelines; takes a minute
    python benchmarks/layouts.py --two-nodes            # exposed communication; takes root
    python benchmarks/layouts.py --short

The layers sleep, so that a few cores can show many ranks (peers/slept_layouts.py). *Efficiency* is
the time of the arithmetic alone over that of a step; *formula* is what docs/pipelines.md gives for
the schedule. Over two nodes with 1 Gbit/s between them, two data-parallel ranks sum a gradient of
16 MB while backward, which is made as long as that sum takes by itself, goes on: *exposed* is what
a step takes beyond backward.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from common import PEERS, ROOT, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

SLEPT = PEERS / "slept_layouts.py"
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
LIMIT = 120  # seconds for one launch
LAYERS = 8  # of a pipeline
GRADIENT = 16 << 20  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4, help="of the pipeline")
    parser.add_argument("--micros", type=int, default=8)
    parser.add_argument(
        "--forward", type=float, default=0.02, help="seconds of a layer; backward takes twice that"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--two-nodes", action="store_true", help="exposed communication")
    parser.add_argument("--short", action="store_true", help="2 ranks, 1 round")
    parser.add_argument("--json", type=Path, default=Path("results/layouts.json"))
    options = parser.parse_args()
    if options.short:
        options.ranks, options.micros, options.rounds, options.forward = 2, 4, 1, 0.002
    console = Console(width=100)
    rows = exposed(options) if options.two_nodes else pipelines(options)
    table = Table(title="measured" if options.two_nodes else f"{options.ranks} ranks, measured")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "schedule" else "right")
    for row in rows:
        table.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row.values()))
    console.print(table)
    write(options.json, {**provenance(), "rounds": options.rounds, "rows": rows})
    console.print(f"written: {options.json}")
    return 0


def pipelines(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a schedule."""
    p, m = options.ranks, options.micros
    f, b = options.forward * LAYERS / p, 2 * options.forward * LAYERS / p
    beyond = {  # of a step's m (f + b)
        "gpipe": (p - 1) * (f + b),
        "1f1b": (p - 1) * (f + b),
        "interleaved": (p - 1) * (f + b) / 2,
        "zero-bubble": (p - 1) * (f + b / 2) - (min(m, p) - 1) * b / 2,
    }
    found: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    for _ in range(options.rounds):
        for name in SCHEDULES:
            arguments = (
                "--pipeline", p, "--schedule", name, "--micros", m, "--layers", LAYERS,
                "--forward", options.forward, "--backward", 2 * options.forward,
            )  # fmt: skip
            (line,) = json_lines(launch(mpirun(p, SLEPT, *arguments), LIMIT))
            found[name].append(line["seconds"])
    rows = []
    for name, seconds in found.items():
        step, work = statistics.median(seconds), m * (f + b)
        formula = work / (work + beyond[name])
        rows.append({
            "schedule": name, "stages": p * (2 if name == "interleaved" else 1), "micros": m,
            "seconds": step, "efficiency": work / step, "formula": formula,
            "of formula": work / step / formula,
            "of 1f1b's bubble": (step - work) / beyond["1f1b"] if beyond["1f1b"] else 0.0,
        })  # fmt: skip
    return rows


def exposed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Communication that is left when backward is as long as the sum."""
    layers, calm = 16, 0.15  # of the sum, as a first guess of its seconds
    rows = []
    for _ in range(options.rounds):
        for backward in (calm, None):
            seconds = calm if backward is not None else rows.pop()["allreduce"]
            program = (
                sys.executable, SLEPT, "--layers", layers, "--micros", 2, "--leaves", 2,
                "--zero", 0, "--parameters", GRADIENT // 4 // layers, "--forward", 0,
                "--backward", seconds / layers,
            )  # fmt: skip
            command = [ROOT / "benchmarks" / "two_nodes.sh", "-n", 2, *program]
            (line,) = json_lines(launch(command, LIMIT))
            left = line["seconds"] - seconds
            rows.append({
                "backward": seconds, "allreduce": line["allreduce"], "step": line["seconds"],
                "exposed": left, "of the sum": left / line["allreduce"],
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    sys.exit(main())
