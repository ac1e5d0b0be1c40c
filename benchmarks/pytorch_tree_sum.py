"""GPT-2 in PyTorch: a step with TreeSum and a step with DDP (gloo), in turn.

    python benchmarks/pytorch_tree_sum.py               # 9 rounds, 3.4 million weights on 2 ranks
    python benchmarks/pytorch_tree_sum.py --short       # 1 round of a few steps of a small model

A round starts each of them once, in fresh processes: the same model, text, micro-batches, clipping,
optimizer and threads (peers/pytorch_step.py). Printed are the milliseconds of the rounds' median
steps, and the ratio of their medians. TreeSum pays for its fixed order with an addition a leaf; DDP
overlaps its sum with the backward of the last micro-batch.
"""

import argparse
import statistics
import sys
from pathlib import Path

from common import PEERS, flags, has, json_lines, launch, mpirun, provenance, torchrun, write
from rich.console import Console
from rich.table import Table

MODEL = {"layers": 4, "heads": 4, "width": 256, "context": 256}
SMALL = {"layers": 1, "heads": 2, "width": 32, "context": 32}
BATCH = {"leaves": 16, "per-leaf": 1, "micro": 1}
WARM = 2  # steps that do not count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="steps that count in a round")
    parser.add_argument("--short", action="store_true", help="1 round of 2 steps, a small model")
    parser.add_argument("--json", type=Path, default=Path("results/pytorch_tree_sum.json"))
    options = parser.parse_args()
    console = Console(width=100)
    if not (has("torch") and has("transformers")):
        console.print(
            "PyTorch or transformers is missing: pip install 'hpcpar[peers]'", markup=False
        )
        return 0
    model, rounds, steps = MODEL, options.rounds, options.steps
    if options.short:
        model, rounds, steps = SMALL, 1, 2

    work = flags(model | BATCH | {"steps": WARM + steps})
    program = PEERS / "pytorch_step.py"
    commands = {
        "TreeSum": mpirun(options.ranks, program, "tree", *work),
        "DDP (gloo)": torchrun(options.ranks, program, "ddp", *work),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            report = json_lines(launch(command))[0]
            seconds[name].append(statistics.median(report["seconds"][WARM:]))

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table(title=f"GPT-2 {model}, {BATCH}, {options.ranks} ranks: ms a step (measured)")
    for column in ("", "median", "min", "max", "ratio of medians"):
        table.add_column(column, justify="right")
    for name, values in seconds.items():
        numbers = (f"{1e3 * f(values):.1f}" for f in (statistics.median, min, max))
        table.add_row(name, *numbers, f"{medians['TreeSum'] / medians[name]:.3f}")
    console.print(table)
    report = {
        "model": model,
        "batch": BATCH,
        "ranks": options.ranks,
        "rounds": rounds,
        "short": options.short,
        "steps": steps,
        "seconds": seconds,
        "medians": medians,
        "ratio": medians["TreeSum"] / medians["DDP (gloo)"],
    }
    write(options.json, provenance() | report)
    console.print(f"written: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
