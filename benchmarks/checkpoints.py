"""What checkpoints cost that are written behind the training.

    python benchmarks/checkpoints.py                    # every 10 and every 100 steps; 5 minutes
    python benchmarks/checkpoints.py --every 5 --rounds 20   # on a machine that is not quiet
    python benchmarks/checkpoints.py --short

A GPT of 3.4 million weights is trained on 2 ranks, in spans of N steps without and with one
checkpoint, in turn (peers/checkpointed_steps.py). *cost* is the median over the rounds of what the
span with one takes longer, in percent; *of 100* the same time in percent of 100 steps, which short
spans tell better where others disturb; *begin* is what the training waits for: the copy.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import PEERS, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

LIMIT = 900  # seconds for one launch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, nargs="+", default=[10, 100], metavar="N")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=None, help="a folder to write into and remove again")
    parser.add_argument("--short", action="store_true", help="a small model, 2 steps, 1 round")
    parser.add_argument("--json", type=Path, default=Path("results/checkpoints.json"))
    options = parser.parse_args()
    more: list[object] = []
    if options.short:
        options.every, options.rounds, more = [2], 1, ["--layers", 1, "--width", 32]
    rows = [measured(options, every, more) for every in options.every]
    console, table = Console(width=100), Table(title=f"{options.ranks} ranks, measured")
    for name in (
        "every",
        "step s",
        "with s",
        "cost %",
        "of 100 %",
        "begin s",
        "there after s",
        "MB",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["every"]), f"{row['step']:.4f}", f"{row['with']:.4f}", f"{row['percent']:.2f}",
            f"{row['of_100']:.2f}",
            f"{row['begin']:.4f}", f"{row['there']:.3f}", f"{row['bytes'] / 1e6:.1f}",
        )  # fmt: skip
    console.print(table)
    write(options.json, {**provenance(), "rounds": options.rounds, "rows": rows})
    console.print(f"written: {options.json}")
    return 0


def measured(options: argparse.Namespace, every: int, model: list[object]) -> dict[str, Any]:
    """A row: medians over the rounds, of a step and of the checkpoint."""
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        arguments = (Path(folder) / "checkpoints", "--every", every, "--rounds", options.rounds)
        program = mpirun(options.ranks, PEERS / "checkpointed_steps.py", *arguments, *model)
        (line,) = json_lines(launch(program, LIMIT))
    spans = list(zip(line["none"], line["checkpoint"], strict=True))
    longer, more = [b / a - 1 for a, b in spans], [b - a for a, b in spans]
    return {
        "every": every,
        "step": statistics.median(line["none"]) / every,
        "with": statistics.median(line["checkpoint"]) / every,
        "percent": 100 * statistics.median(longer),
        "of_100": statistics.median(more) / statistics.median(line["none"]) * every,
        "percents": [100 * one for one in longer],
        "begin": statistics.median(line["begin"]),
        "there": statistics.median(line["there"]),
        "bytes": line["bytes"],
    }


if __name__ == "__main__":
    sys.exit(main())
