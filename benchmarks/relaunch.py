"""How long a run stands still when a rank is killed and the job is started again.

    python benchmarks/relaunch.py                        # 5 kills of the default model each; 5 min
    python benchmarks/relaunch.py --ranks 4 --kills 11
    python benchmarks/relaunch.py --short

`python -m hpcpar launch` runs the training, which goes on from its state in memory (--recovery
relaunch) or from its newest checkpoint (none); one rank after the other gets SIGKILL. *next step*
is the time from the kill to the next step that is done, *new step* to the first that had not been
done before: from a checkpoint, steps are computed again.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import end, provenance, write

LIMIT = 120.0  # seconds for one restart
RECOVERY = {"memory": "relaunch", "disk": "none"}
SMALL = ["--model.layers", "1", "--model.heads", "2", "--model.width", "32"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=int, default=10, help="steps between two checkpoints")
    parser.add_argument("--short", action="store_true", help="a small model, 1 kill")
    parser.add_argument("--json", type=Path, default=Path("results/relaunch.json"))
    options = parser.parse_args()
    model = SMALL if options.short else []
    kills = 1 if options.short else options.kills
    rows = []
    for source, recovery in RECOVERY.items():
        with tempfile.TemporaryDirectory() as folder:
            words = ["--recovery", recovery, *model]
            found = measured(options.ranks, kills, options.every, words, Path(folder) / "run")
        for name in ("next_step", "new_step"):
            times = [row[name] for row in found]
            each = ", ".join(f"{seconds:.1f}" for seconds in times)
            middle = statistics.median(times)
            print(f"from {source}, {name.replace('_', ' ')}: median {middle:.1f} s ({each})")
        rows += [{"from": source, **row} for row in found]
    write(options.json, {**provenance(), "ranks": options.ranks, "rows": rows})
    return 0


def measured(
    ranks: int, kills: int, every: int, words: Sequence[str], run: Path
) -> list[dict[str, float]]:
    """A row a kill: seconds."""
    train = [sys.executable, "-m", "hpcpar.train", "--steps", "1000000", "--run.dir", str(run)]
    command = [sys.executable, "-m", "hpcpar", "launch", "-n", str(ranks), "--", *train]
    command += ["--checkpoint.every", str(every), "--run.evaluate_every", "0", *words]
    draw, rows = random.Random(1), []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        before = 0
        for _ in range(kills):
            goal = before + every + draw.randrange(1, every)
            until(process, lambda goal=goal: newest(run) >= goal)
            before, since = newest(run), changed(run)
            os.kill(draw.choice(ranks_of(process.pid)), signal.SIGKILL)
            killed = time.monotonic()
            until(process, lambda since=since: changed(run) != since)
            # The line of a step that memory has the state of may still have to be written.
            kept = before if "relaunch" in words else newest(run)
            until(process, lambda kept=kept: newest(run) > kept)
            first = time.monotonic() - killed
            until(process, lambda before=before: newest(run) > before)
            rows.append({"next_step": first, "new_step": time.monotonic() - killed})
    finally:
        end(process)
    return rows


def until(process: "subprocess.Popen[bytes]", happened: Callable[[], bool]) -> None:
    """Wait for something, as long as a restart may take."""
    deadline = time.monotonic() + LIMIT
    while not happened():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run ended, or stood still for {LIMIT:.0f} s")
        time.sleep(0.01)


def steps(run: Path) -> list[int]:
    """Of the whole lines of metrics.jsonl."""
    with contextlib.suppress(OSError):
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    return []


def newest(run: Path) -> int:
    return max(steps(run), default=0)


def changed(run: Path) -> int:
    """The number of the file metrics.jsonl, which a run that is resumed writes anew."""
    return (run / "metrics.jsonl").stat().st_ino


def ranks_of(session: int) -> list[int]:
    """Process ids of the ranks that were started in a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            own = os.getsid(int(name)) == session
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if own and words[1:3] == [b"-m", b"hpcpar.train"]:
                found.append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main())
