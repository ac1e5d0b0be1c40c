"""A slow rank gets less to do while the run goes on, and the bits stay."""

import json
from pathlib import Path
from statistics import median

from training import metrics, sha256

PROGRAM = Path(__file__).parents[1] / "programs" / "slowed.py"
STEPS, EVERY = 12, 2


def test_a_slow_rank_gets_less(mpirun, tmp_path, config, undisturbed):
    """Work is slept; the last rank takes two and a half times as long."""
    given = ["1,1,0.4", "0.03", config, "--steps", STEPS, "--batch.leaves", 12]
    folder = tmp_path / "run"
    balance = ["--parallel.balance", EVERY, "--run.dir", folder]
    done = mpirun(3, PROGRAM, *map(str, [*given, *balance]))
    assert done.returncode == 0, done.stderr
    assert sha256(done) == undisturbed(STEPS, "--batch.leaves", "12")
    kinds = [
        json.loads(line)["kind"] for line in (folder / "events.jsonl").read_text().splitlines()
    ]
    assert "balance" in kinds and "slower, down to 0." in done.stderr
    rows = metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    seconds = [row["seconds"] for row in rows]
    slept = [0.03 * 4 / 0.4, 0.03 * 5]  # before, with 4 leaves each, and after: 5, 5 and 2
    assert min(seconds[:4]) > slept[0] and median(seconds[-3:]) < slept[0]
