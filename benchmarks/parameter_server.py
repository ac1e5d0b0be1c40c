"""Loss over time when workers are uneven: bsp, ssp, asp and local against one worker alone.

    python benchmarks/parameter_server.py              # 4 workers, 2 servers; 3 minutes
    python benchmarks/parameter_server.py --wire bf16
    python benchmarks/parameter_server.py --link 20mbit   # two nodes with such a link: takes root
    python benchmarks/parameter_server.py --short

A small GPT; its work is slept, so that two cores can show many workers: a step takes a worker
--seconds, and an exponential delay of the same mean (tests/programs/slowed.py). *steps/s* is of
all workers together; *loss at T* the validation loss at the time when the fastest was done; *bytes*
what a worker sent or read in place. The curves are in --plot.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT, flags, launch, mpirun, provenance, write
from rich.console import Console
from rich.table import Table

PROGRAM = ROOT / "tests" / "programs" / "slowed.py"
LIMIT = 600  # seconds for one launch
MODEL = {
    "model.layers": 2, "model.heads": 2, "model.width": 32, "model.context": 32, "batch.micro": 2,
    "batch.size": 16, "batch.leaves": 8, "optim.lr": 3e-3, "run.evaluate_samples": 64, "threads": 1,
    "checkpoint.every": 0,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--staleness", type=int, default=3)
    parser.add_argument("--every", type=int, default=50, help="steps between two meetings of local")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.05, help="that a step takes a worker")
    parser.add_argument("--wire", default="float32", choices=["float32", "bf16"])
    parser.add_argument(
        "--link", default="", help="rate of the link between two nodes, as tc has it"
    )
    parser.add_argument("--short", action="store_true", help="a few steps")
    parser.add_argument("--json", type=Path, default=Path("results/parameter_server.json"))
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    if options.short:
        options.steps, options.seconds, options.every = 12, 0.02, 4
    # Two nodes have as many ranks each.
    chosen = {name: how for name, how in ways(options).items() if not (options.link and how[0] % 2)}
    runs = {name: measured(options, name, *how) for name, how in chosen.items()}
    report(options, runs)
    return 0


def ways(options: argparse.Namespace) -> dict[str, tuple[int, dict[str, object]]]:
    """Ranks and keys of each run."""
    workers, servers = options.workers, options.servers
    served = {"sync.servers": servers, "sync.wire": options.wire}
    ssp = {"sync.mode": "ssp", "sync.staleness": options.staleness}
    return {
        "one worker": (1, {}),
        "bsp": (workers, {}),
        "bsp, servers": (workers + servers, served),
        f"ssp {options.staleness}": (workers + servers, served | ssp),
        "asp": (workers + servers, served | {"sync.mode": "asp"}),
        f"local {options.every}": (workers, {"sync.mode": "local", "sync.every": options.every}),
    }


def measured(
    options: argparse.Namespace, name: str, ranks: int, keys: dict[str, object]
) -> dict[str, Any]:
    """One run: its rows, with the time when each was there."""
    workers = ranks - int(str(keys.get("sync.servers", 0)))
    micros = int(str(MODEL["batch.size"])) // int(str(MODEL["batch.micro"]))
    # So that a worker's share of a step takes the seconds; alone it has all of them.
    slept = f"{options.seconds * options.workers / micros}+{options.seconds}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        given = MODEL | keys | {
            "steps": options.steps, "run.dir": run, "run.evaluate_every": options.steps // 4,
        }  # fmt: skip
        launch([*start(ranks, options.link), PROGRAM, "1", slept, *flags(given)], LIMIT)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        sync = json.loads((run / "summary.json").read_text())["sync"]
    at, times = 0.0, []
    for row in rows:
        at += row["seconds"]
        times.append(at)
    return {
        "name": name, "ranks": ranks, "workers": workers, "seconds": at,
        "steps_per_second": options.steps / at, "bytes": sync["bytes"],
        "pulls": sync.get("pulls", 0),
        "curve": [(t, row["step"], row["loss"]) for t, row in zip(times, rows, strict=True)],
        "looks": [(t, row["validation_loss"]) for t, row in zip(times, rows, strict=True)
                  if "validation_loss" in row],
    }  # fmt: skip


def start(ranks: int, link: str) -> list[object]:
    """The command line of Python on so many ranks, on one node or on two with such a link."""
    if not link:
        return mpirun(ranks)
    passed = [word for name in ("PATH", "PYTHONPATH") for word in ("-x", name)]
    command = [ROOT / "benchmarks" / "two_nodes.sh", "-n", ranks, "-r", link, "--"]
    return [*command, *passed, sys.executable]


def report(options: argparse.Namespace, runs: dict[str, dict[str, Any]]) -> None:
    """A table, a file, a picture."""
    console, table = Console(width=110), Table(title="uneven workers, slept, measured")
    for name in (
        "",
        "ranks",
        "steps/s",
        "of bsp",
        "loss, mean of the last",
        "validation",
        "MB sent",
    ):
        table.add_column(name, justify="right")
    bsp = runs["bsp"]
    for name, run in runs.items():
        last = [loss for *_, loss in run["curve"]][-max(1, options.steps // 10) :]
        run["of_bsp"] = run["steps_per_second"] / bsp["steps_per_second"]
        table.add_row(
            name, str(run["ranks"]), f"{run['steps_per_second']:.2f}", f"{run['of_bsp']:.2f}",
            f"{median(last):.4f}", f"{run['looks'][-1][1]:.4f}", f"{run['bytes'] / 1e6:.2f}",
        )  # fmt: skip
    console.print(table)
    keys = ("workers", "servers", "staleness", "steps", "seconds", "wire")
    told = {key: getattr(options, key) for key in (*keys, "link")}
    write(options.json, {**provenance(), **told, "measured": True, "runs": list(runs.values())})
    console.print(f"written: {options.json}")
    if options.plot:
        plot(options.plot, runs)


def plot(path: Path, runs: dict[str, dict[str, Any]]) -> None:
    """The validation loss over time, and the training loss behind it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="seconds", ylabel="loss")
    for number, (name, run) in enumerate(runs.items()):
        times, _, losses = zip(*run["curve"], strict=True)
        axes.plot(times, losses, lw=0.5, alpha=0.4, color=f"C{number}")
        axes.plot(*zip(*run["looks"], strict=True), "o-", color=f"C{number}", label=name)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, format="svg")


if __name__ == "__main__":
    sys.exit(main())
