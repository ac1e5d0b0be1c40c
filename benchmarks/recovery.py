"""What a lost rank costs: from its end to the next step, and what the backup takes from every step.

    python benchmarks/recovery.py                 # the default model, 4 ranks; some minutes
    python benchmarks/recovery.py --ranks 2 8 --kills 10
    python benchmarks/recovery.py --short         # 1 kill, 1 round, a small model

*kill to next step* is from SIGKILL at a random moment to the next line in metrics.jsonl, inside the
job (--recovery shrink); the step that was under way is computed again, so the time of a step of
those that are left is given beside it. *backup* compares runs with --recovery shrink and without,
*memory* with relaunch and without, in turn: the median over the rounds of what a step (the median
of a run's) takes more.
"""

import argparse
import json
import secrets
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, flags, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(ROOT / "tests"))
from chaos import draw_blows, strike

from hpcpar.launch import LAUNCHED
from hpcpar.launch.mpirun import FAULT_TOLERANT

SMALL = {"model.layers": 2, "model.width": 32, "model.heads": 2, "model.context": 32}  # for --short
LIMIT = 600  # seconds for one launch
STEPS = 24  # of a run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5, help="of runs with and without the backup")
    parser.add_argument("--short", action="store_true", help="1 kill, 1 round, a small model")
    parser.add_argument("--json", type=Path, default=Path("results/recovery.json"))
    parser.add_argument("arguments", nargs="*", help="after --: for hpcpar.train")
    options = parser.parse_args()
    if options.short:
        options.kills, options.rounds, options.ranks = 1, 1, [2]
    console = Console(width=110)
    rows = [kills(options, ranks) | backup(options, ranks) for ranks in options.ranks]
    table = Table(title="a lost rank, measured")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()))
    console.print(table)
    report = {"arguments": options.arguments, "rounds": options.rounds}
    write(options.json, {**provenance(), **report, "rows": rows})
    console.print(f"written: {options.json}")
    return 0


def given(options: argparse.Namespace) -> dict[str, object]:
    """Keys of every run."""
    return (SMALL if options.short else {}) | {
        "steps": STEPS, "threads": 1, "checkpoint.every": 0, "run.evaluate_every": 0,
        "run.evaluate_samples": 8,
    }  # fmt: skip


def kills(options: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """One kill a run, each at another moment."""
    seconds, steps = [], []
    for seed in range(options.kills):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "run"
            blows = draw_blows(seed, 1, STEPS, signal.SIGKILL)
            words = [*flags(given(options)), *options.arguments]
            outcome = strike(ranks, words, place, blows, LIMIT)
            if outcome.status or not outcome.sha256:
                sys.exit(f"the run with seed {seed} ended with {outcome.status}:\n{outcome.text}")
            seconds += outcome.seconds_to_next_step()
            steps.append(statistics.median(step_seconds(place)[-5:]))
    return {
        "ranks": ranks, "kills": len(seconds), "kill to next step": statistics.median(seconds),
        "longest": max(seconds), "a step afterwards": statistics.median(steps),
    }  # fmt: skip


def backup(options: argparse.Namespace, ranks: int) -> dict[str, float]:
    """Runs that nobody disturbs."""
    plain: list[float] = []
    more: dict[str, list[float]] = {"shrink": [], "relaunch": []}
    for _ in range(options.rounds):
        plain.append(run(options, ranks, "none"))
        for wish, costs in more.items():
            costs.append(run(options, ranks, wish) / plain[-1] - 1)
    backup, memory = map(statistics.median, more.values())
    return {"a step": statistics.median(plain), "backup": backup, "memory": memory}


def run(options: argparse.Namespace, ranks: int, recovery: str) -> float:
    """The median of a run's steps, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        keys = given(options) | {"recovery": recovery, "run.dir": place}
        command = mpirun(ranks, "-m", "hpcpar.train", *flags(keys), *options.arguments)
        at = command.index("-n")
        job = {LAUNCHED: secrets.token_hex(16)}  # as `python -m hpcpar launch` gives it to a run
        launch([*command[:at], *FAULT_TOLERANT, *command[at:]], LIMIT, job)
        return statistics.median(step_seconds(place)[1:])


def step_seconds(place: Path) -> list[float]:
    """Of all steps."""
    lines = (place / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


if __name__ == "__main__":
    sys.exit(main())
