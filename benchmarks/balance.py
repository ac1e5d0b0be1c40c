"""How much of a slow rank's time balancing gets back: bsp with and without, work slept.

    python benchmarks/balance.py               # 4 ranks of speed 1, 1, 1, 1/2; a minute
    python benchmarks/balance.py --speeds 1,0.7,0.4 --pipeline 3
    python benchmarks/balance.py --texts       # texts of uneven length, computed, not slept
    python benchmarks/balance.py --short

The work of a step, --work seconds at speed 1, is slept (tests/programs/slowed.py), so that two
cores can show ranks of any speed. *ideal* is that work divided by the sum of all speeds, *share*
the part of the ideal throughput that the steps have after --within steps (median of the rest), and
before. Both runs must have the same hash.

With --texts a GPT reads files of uneven length (Pareto, shape 1.5): windows that attend to all of
them, within documents (--data.documents), and with even batches as well (--data.balance); *wait* is
the part of their steps that ranks stand still for each other.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, flags, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

PROGRAM = ROOT / "tests" / "programs" / "slowed.py"
LIMIT = 600  # seconds for one launch
MODEL = {  # as little to compute as there can be
    "model.heads": 1, "model.width": 8, "model.context": 8, "batch.micro": 1,
    "run.evaluate_every": 0, "run.evaluate_samples": 8, "checkpoint.every": 0, "threads": 1,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speeds", default="1,1,1,0.5")
    parser.add_argument("--leaves", type=int, default=28)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--work", type=float, default=2.8, help="seconds of a step at speed 1")
    parser.add_argument("--every", type=int, default=4, help="steps between two looks")
    parser.add_argument("--within", type=int, default=20, help="steps until it is balanced")
    parser.add_argument("--texts", action="store_true", help="texts of uneven length instead")
    parser.add_argument("--short", action="store_true", help="less work")
    parser.add_argument("--json", type=Path, default=Path("results/balance.json"))
    options = parser.parse_args()
    if options.short:
        options.work, options.within, options.every = 0.28, 8, 2
    if options.texts:
        return texts(options)
    ideal = options.work / sum(map(float, options.speeds.split(",")))
    rows = [run(options, every) for every in (0, options.every)]
    if len({row["sha256"] for row in rows}) != 1:
        sys.exit("balancing has changed the bits")
    console, table = Console(width=100), Table(title="a slow rank, work slept, measured")
    for name in ("balance", "a step, s", "ideal, s", "share", "moves", "step of the last move"):
        table.add_column(name, justify="right")
    for row in rows:
        row |= {"ideal": ideal, "share": ideal / row["step"]}
        table.add_row(
            str(row["every"] or "none"), f"{row['step']:.3f}", f"{ideal:.3f}",
            f"{row['share']:.2f}", str(len(row["moves"])), str(max(row["moves"], default="")),
        )  # fmt: skip
    console.print(table)
    write(options.json, {**provenance(), "speeds": options.speeds, "work": options.work,
                         "measured": True, "rows": rows})  # fmt: skip
    console.print(f"the same hash; written: {options.json}")
    return 0


def run(options: argparse.Namespace, every: int) -> dict[str, Any]:
    """One training: the median of the steps at its end."""
    ranks = len(options.speeds.split(","))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        given = MODEL | {
            "steps": options.within + 8, "batch.size": options.leaves,
            "model.layers": 2 * options.pipeline,
            "batch.leaves": options.leaves, "parallel.pipeline": options.pipeline,
            "parallel.balance": every, "run.dir": place,
        }  # fmt: skip
        slept = options.work / options.leaves
        launch(mpirun(ranks, PROGRAM, options.speeds, slept, *flags(given)), LIMIT)
        lines = (place / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
        sha256 = json.loads((place / "summary.json").read_text())["weights_sha256"]
    seconds = [json.loads(line)["seconds"] for line in lines]
    moves = [event["step"] for event in events if event["kind"] == "balance"]
    return {
        "every": every, "step": statistics.median(seconds[options.within :]), "seconds": seconds,
        "moves": sorted(set(moves)), "sha256": sha256,
    }  # fmt: skip


def texts(options: argparse.Namespace) -> int:
    """Uneven documents: tokens a second, and how long ranks wait for each other."""
    ways: dict[str, dict[str, object]] = {
        "whole windows": {}, "documents": {"data.documents": "true"},
        "documents, balanced": {"data.documents": "true", "data.balance": "true"},
    }  # fmt: skip
    console, table = Console(width=100), Table(title="texts of uneven length, 2 ranks, measured")
    for name in ("", "tokens/s", "compute", "wait"):
        table.add_column(name, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_texts(Path(folder) / "texts", 300_000 if options.short else 3_000_000)
        for number, (name, keys) in enumerate(ways.items()):
            run = Path(folder) / f"run{number}"
            given = {
                "data.paths": Path(folder) / "texts", "model.layers": 2, "model.heads": 2,
                "model.width": 64, "model.context": 128 if options.short else 512,
                "batch.size": 16, "batch.micro": 2, "batch.leaves": 8, "run.evaluate_every": 0,
                "run.evaluate_samples": 8, "checkpoint.every": 0, "threads": 1, "run.dir": run,
                "steps": 6 if options.short else 60,
            }  # fmt: skip
            launch(mpirun(2, "-m", "hpcpar.train", *flags(given | keys)), LIMIT)
            told = json.loads((run / "summary.json").read_text())
            ranks = told["seconds_of_ranks"]
            parts = {kind: sum(rank[kind] for rank in ranks) / sum(rank["wall"] for rank in ranks)
                     for kind in ("compute", "wait", "communication")}  # fmt: skip
            wait = parts["wait"] + parts["communication"]
            rows.append({"name": name, "tokens_per_second": told["tokens_per_second"], **parts})
            speed = f"{told['tokens_per_second']:,.0f}"
            table.add_row(name, speed, f"{parts['compute']:.0%}", f"{wait:.0%}")
    console.print(table)
    write(options.json, {**provenance(), "measured": True, "rows": rows})
    return 0


def write_texts(folder: Path, total: int) -> None:
    """Files of words, whose lengths are Pareto with shape 1.5 and at least 50 bytes."""
    folder.mkdir()
    draw = random.Random(1)
    words = [f"word{number:03d} " for number in range(500)]
    number = 0
    while total > 0:
        size = min(total, int(50 * draw.paretovariate(1.5)))
        text = "".join(draw.choices(words, k=size // 8 + 1))[:size]
        (folder / f"{number:06d}.txt").write_text(text)
        total, number = total - size, number + 1


if __name__ == "__main__":
    sys.exit(main())
