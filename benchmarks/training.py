"""Training speed: hpcpar and PyTorch DDP (gloo) in turn, with the same model, batch and threads.

    python benchmarks/training.py                # 7 rounds, a GPT of 3.4 million weights on 2 ranks
    python benchmarks/training.py --short        # 2 rounds of a few steps
    python benchmarks/training.py --ranks 1 --peer-python OTHER/bin/python

A round times some steps of each, one after the other, in fresh processes; the first steps of each
are left out. Printed are the tokens a second of each round's median step, and the ratio of the
medians over the rounds. hpcpar is measured as users run it (`python -m hpcpar.train`, its own
metrics.jsonl), with its fixed order of sums; PyTorch is left out, with a word, where it is missing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import commit, processor
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
MODEL = {"layers": 4, "heads": 4, "width": 256, "context": 256}
VOCABULARY, BATCH = 256, 8
WARM = 3  # steps that do not count
LIMIT = 300  # seconds for one launch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="steps that count in a round")
    parser.add_argument("--short", action="store_true", help="2 rounds of 4 steps")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--json", type=Path, default=Path("results/training.json"))
    options = parser.parse_args()
    rounds, steps = (2, 4) if options.short else (options.rounds, options.steps)

    console = Console(width=100)
    peer = has_torch(options.peer_python)
    if not peer:
        console.print(
            "PyTorch is not installed here: no peer is timed (pip install 'hpcpar[peers]')."
        )
    speeds: dict[str, list[float]] = {"hpcpar": []} | ({"PyTorch DDP": []} if peer else {})
    for _ in range(rounds):
        speeds["hpcpar"].append(time_hpcpar(options.ranks, steps))
        if peer:
            speeds["PyTorch DDP"].append(time_pytorch(options.peer_python, options.ranks, steps))

    table = Table(
        title=f"GPT {MODEL}, batch {BATCH}, {options.ranks} ranks of 1 thread: tokens/s (measured)"
    )
    for column in ("", "median", "min", "max", "ratio of medians"):
        table.add_column(column, justify="right")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        numbers = (f"{f(values):,.0f}" for f in (statistics.median, min, max))
        ratio = f"{medians['hpcpar'] / medians[name]:.3f}" if name != "hpcpar" else ""
        table.add_row(name, *numbers, ratio)
    console.print(table)

    report = {
        "model": MODEL | {"vocabulary": VOCABULARY}, "batch": BATCH, "ranks": options.ranks,
        "rounds": rounds, "steps": steps, "tokens_per_second": speeds, "medians": medians,
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "commit": commit(), "measured": True,
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written: {options.json}")
    return 0


def time_hpcpar(ranks: int, steps: int) -> float:
    """Tokens a second of the median step of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = {f"model.{name}": value for name, value in MODEL.items()}
        flags |= {"batch.size": BATCH, "batch.micro": BATCH // ranks if BATCH % ranks == 0 else 1}
        flags |= {"steps": WARM + steps, "checkpoint.every": 0, "threads": 1, "run.dir": run}
        flags |= {"run.evaluate_every": 0, "run.evaluate_samples": 8}
        arguments = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        command = [str(HERE.parent / "tools" / "mpirun"), "-n", str(ranks), sys.executable]
        launch([*command, "-m", "hpcpar.train", *arguments])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return speed([row["seconds"] for row in rows])


def time_pytorch(python: str, ranks: int, steps: int) -> float:
    """Tokens a second of the median step of one run of peers/pytorch_gpt.py."""
    sizes = MODEL | {"vocabulary": VOCABULARY, "batch": BATCH, "steps": WARM + steps}
    arguments = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    output = launch([python, *torchrun, str(HERE / "peers" / "pytorch_gpt.py"), *arguments])
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return speed(json.loads(line)["seconds"])


def speed(seconds: list[float]) -> float:
    return BATCH * MODEL["context"] / statistics.median(seconds[WARM:])


def launch(command: list[str]) -> str:
    """Standard output of a command that must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def has_torch(python: str) -> bool:
    check = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    return subprocess.run([python, "-c", check], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
