"""Plans against what is measured: how far off the seconds are, and how good the first choice is.

    python benchmarks/plans.py                # a GPT on 2 ranks; slept layers on 2, 4 and 8
    python benchmarks/plans.py --reproducible layout   # tensor and context ranks too; GPT only
    python benchmarks/plans.py --bytes        # what ranks hold: a GPT on 4 ranks
    python benchmarks/plans.py --short

Every layout is planned from figures that the same launch has measured, and then trained, in turn
with the others (peers/planned_layouts.py). *error* is |planned / measured - 1|; *choice* is the
measured time of the layout that the plan puts first over the least measured one. A GPT needs a core
for each rank, so it has as many as this machine; the layers of the other model sleep.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from common import PEERS, json_lines, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

CASES = (("gpt", 2), ("slept", 2), ("slept", 4), ("slept", 8))
LIMIT = 400  # seconds for one launch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--reproducible", default="ranks", help="layout: all axes, in tiles")
    parser.add_argument("--bytes", action="store_true", help="tell bytes, not seconds")
    parser.add_argument("--short", action="store_true", help="slept layers on 2 ranks, 2 steps")
    parser.add_argument("--json", type=Path, default=Path("results/plans.json"))
    options = parser.parse_args()
    console, cases = Console(width=120), []
    chosen = [("gpt", 4)] if options.bytes else CASES
    if options.reproducible == "layout":
        chosen = [case for case in chosen if case[0] == "gpt"]
    for kind, ranks in [("slept", 2)] if options.short else chosen:
        arguments = ["--kind", kind, "--steps", 2 if options.short else options.steps]
        arguments += ["--reproducible", options.reproducible]
        if options.short:
            arguments += ["--layers", 4, "--forward", 0.001, "--backward", 0.002]
        rows = json_lines(launch(mpirun(ranks, PEERS / "planned_layouts.py", *arguments), LIMIT))
        case = judged(kind, ranks, rows)
        console.print(drawn_bytes(case) if options.bytes else drawn(case))
        cases.append(case)
    write(options.json, {**provenance(), "steps": options.steps, "cases": cases})
    console.print(f"written: {options.json}")
    return 0


def judged(kind: str, ranks: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A case with its errors; the rows are in the order of the plan."""
    for row in rows:
        row["error"] = abs(row["planned"] / row["measured"] - 1)
    least = min(row["measured"] for row in rows)
    return {
        "model": kind, "ranks": ranks, "rows": rows,
        "error": statistics.median(row["error"] for row in rows),
        "choice": rows[0]["measured"] / least,
    }  # fmt: skip


def drawn(case: dict[str, Any]) -> Table:
    """The case as a table."""
    table = Table(
        title=f"{case['model']}, {case['ranks']} ranks: median error {case['error']:.1%}, "
        f"choice {case['choice']:.3f} of the least"
    )
    table.add_column("layout")
    for name in ("planned (s)", "measured (s)", "error", "compute", "exposed", "bubble"):
        table.add_column(name, justify="right")
    for row in case["rows"]:
        table.add_row(
            row["layout"], f"{row['planned']:.4f}", f"{row['measured']:.4f}", f"{row['error']:.1%}",
            *(f"{row[name]:.4f}" for name in ("compute", "exposed", "bubble")),
        )  # fmt: skip
    return table


def drawn_bytes(case: dict[str, Any]) -> Table:
    """The case's bytes, in MB: counted, and over what was planned in brackets."""
    table = Table(title=f"{case['model']}, {case['ranks']} ranks: MB counted (of planned)")
    kinds = list(case["rows"][0]["bytes"]["counted"])
    table.add_column("layout")
    for name in (*kinds, "all but buffers"):
        table.add_column(name, justify="right")
    for row in sorted(case["rows"], key=lambda row: row["layout"]):
        counted, planned = (
            found | {"all but buffers": sum(found.values()) - found["buffers"]}
            for found in (row["bytes"]["counted"], row["bytes"]["planned"])
        )
        table.add_row(
            row["layout"],
            *(
                f"{counted[name] / 1e6:.1f}"
                + (f" ({counted[name] / planned[name]:.3f})" if planned[name] else "")
                for name in (*kinds, "all but buffers")
            ),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
