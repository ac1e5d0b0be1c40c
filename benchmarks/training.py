"""Training speed: hpcpar and PyTorch DDP (gloo) in turn, with the same model, batch and threads.

    python benchmarks/training.py                # 7 rounds, a GPT of 3.4 million weights on 2 ranks
    python benchmarks/training.py --short        # 1 round of a few steps, a small model
    python benchmarks/training.py --ranks 1 --peer-python OTHER/bin/python
    python benchmarks/training.py --reproducible off ranks layout            # what a promise costs
    python benchmarks/training.py --reproducible off layout -- --parallel.tensor 2

A round times some steps of each, one after the other, in fresh processes; the first steps of each
are left out. Printed are the tokens a second of each round's median step, and how often the median
over the rounds of the first row holds that of another. hpcpar is measured as users run it
(`python -m hpcpar.train`, its own metrics.jsonl); PyTorch is left out, with a word, where it is
missing. What comes after -- goes to hpcpar.train.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import PEERS, flags, has, json_lines, launch, mpirun, provenance, torchrun, write
from rich.console import Console
from rich.table import Table

MODEL = {"layers": 4, "heads": 4, "width": 256, "context": 256}
SMALL = MODEL | {"width": 64, "context": 64}  # for --short
VOCABULARY, BATCH = 256, 8
WARM = 3  # steps that do not count
PROMISES = ("ranks", "layout", "off")


def main() -> int:
    options = parse()
    console = Console(width=100)
    runs: dict[str, Callable[[], float]] = {
        f"hpcpar, {promise}": partial(time_hpcpar, options, promise)
        for promise in options.reproducible
    }
    if has("torch", options.peer_python):
        runs["PyTorch DDP"] = partial(time_pytorch, options)
    else:
        console.print(
            "PyTorch is not installed here: no peer is timed (pip install 'hpcpar[peers]')."
        )
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            speeds[name].append(run())

    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = next(iter(medians))
    table = Table(
        title=f"GPT {options.model}, batch {BATCH}, {options.ranks} ranks of 1 thread: "
        "tokens/s (measured)"
    )
    for column in ("", "median", "min", "max", f"{first} over this"):
        table.add_column(column, justify="right")
    for name, values in speeds.items():
        numbers = (f"{f(values):,.0f}" for f in (statistics.median, min, max))
        ratio = f"{medians[first] / medians[name]:.3f}" if name != first else ""
        table.add_row(name, *numbers, ratio)
    console.print(table)
    report = provenance() | {
        "model": options.model | {"vocabulary": VOCABULARY}, "batch": BATCH, "ranks": options.ranks,
        "rounds": options.rounds, "steps": options.steps, "arguments": options.arguments,
        "tokens_per_second": speeds, "medians": medians,
    }  # fmt: skip
    write(options.json, report)
    console.print(f"written: {options.json}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="steps that count in a round")
    parser.add_argument(
        "--reproducible", nargs="+", choices=PROMISES, default=["ranks"], help="a row for each"
    )
    parser.add_argument("--short", action="store_true", help="1 round of 4 steps, a small model")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--json", type=Path, default=Path("results/training.json"))
    parser.add_argument("arguments", nargs="*", help="after --: for hpcpar.train")
    options = parser.parse_args()
    options.model = SMALL if options.short else MODEL
    if options.short:
        options.rounds, options.steps = 1, 4
    return options


def time_hpcpar(options: argparse.Namespace, promise: str) -> float:
    """Tokens a second of the median step of one run."""
    ranks = options.ranks
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        given = {f"model.{name}": value for name, value in options.model.items()} | {
            "batch.size": BATCH, "batch.micro": BATCH // ranks if BATCH % ranks == 0 else 1,
            "steps": WARM + options.steps, "checkpoint.every": 0, "threads": 1, "run.dir": run,
            "run.evaluate_every": 0, "run.evaluate_samples": 8, "reproducible": promise,
        }  # fmt: skip
        launch(mpirun(ranks, "-m", "hpcpar.train", *flags(given), *options.arguments))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return speed([row["seconds"] for row in rows], options)


def time_pytorch(options: argparse.Namespace) -> float:
    """Tokens a second of the median step of one run of peers/pytorch_gpt.py."""
    steps = WARM + options.steps
    sizes = options.model | {"vocabulary": VOCABULARY, "batch": BATCH, "steps": steps}
    program = PEERS / "pytorch_gpt.py"
    (line,) = json_lines(
        launch(torchrun(options.ranks, program, *flags(sizes), python=options.peer_python))
    )
    return speed(line["seconds"], options)


def speed(seconds: list[float], options: argparse.Namespace) -> float:
    return float(BATCH * options.model["context"] / statistics.median(seconds[WARM:]))


if __name__ == "__main__":
    sys.exit(main())
