"""What audits cost: training with `--audit` and without, in turn, with the default model.

    python benchmarks/audit.py                   # --audit 16, 2 and 4 ranks; takes some minutes
    python benchmarks/audit.py --every 4 --ranks 2
    python benchmarks/audit.py --short           # 1 round, a small model

A run has some steps that do not count, and then as many as there are between some audits. A round
has one run without audits and one with them. *seconds* is the mean of a run's steps, median over
the rounds; *cost* is the median over the rounds of what the run with audits takes more. *inside* is
the same from the runs with audits alone: the median of audited steps against the median of the
others, shared out among all; another program on the machine disturbs it less.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import flags, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

SMALL = {"model.layers": 2, "model.width": 32, "model.heads": 2, "model.context": 32}  # for --short
LIMIT = 600  # seconds for one launch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--every", type=int, default=16, help="steps between two audits")
    parser.add_argument("--audits", type=int, default=4, help="in a run, that count")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="2 ranks, 1 round, a small model")
    parser.add_argument("--json", type=Path, default=Path("results/audit.json"))
    parser.add_argument("arguments", nargs="*", help="after --: for hpcpar.train")
    options = parser.parse_args()
    if options.short:
        options.ranks, options.rounds, options.audits = [2], 1, 1
    console = Console(width=100)
    rows = [measure(options, ranks) for ranks in options.ranks]
    table = Table(title=f"--audit {options.every}, measured")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row.values()))
    console.print(table)
    report = {"rounds": options.rounds, "every": options.every, "arguments": options.arguments}
    write(options.json, {**provenance(), **report, "rows": rows})
    console.print(f"written: {options.json}")
    return 0


def measure(options: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """A row for this number of ranks."""
    every = options.every
    pairs = [(run(options, ranks, 0), run(options, ranks, every)) for _ in range(options.rounds)]
    inside = []
    for _, steps in pairs:
        plain = statistics.median(x for i, x in enumerate(steps, 1) if i % every)
        inside.append((statistics.median(steps[every - 1 :: every]) / plain - 1) / every)
    without, audited = (
        statistics.median(map(statistics.mean, runs)) for runs in zip(*pairs, strict=True)
    )
    return {
        "ranks": ranks, "seconds without": without, "seconds with": audited,
        "cost": statistics.median(statistics.mean(b) / statistics.mean(a) - 1 for a, b in pairs),
        "inside": statistics.median(inside),
    }  # fmt: skip


def run(options: argparse.Namespace, ranks: int, audit: int) -> list[float]:
    """Seconds of the steps that count: those after the first audit up to the last."""
    every = options.every
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        given = (SMALL if options.short else {}) | {
            "steps": (1 + options.audits) * every, "audit": audit, "threads": 1, "run.dir": place,
            "checkpoint.every": 0, "run.evaluate_every": 0, "run.evaluate_samples": 8,
        }  # fmt: skip
        launch(mpirun(ranks, "-m", "hpcpar.train", *flags(given), *options.arguments), LIMIT)
        rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    return [row["seconds"] for row in rows][every:]


if __name__ == "__main__":
    sys.exit(main())
