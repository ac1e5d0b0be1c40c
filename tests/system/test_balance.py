"""A slow rank gets less to do while the run goes on, and the bits stay."""

import json
from pathlib import Path

from training import metrics, sha256

PROGRAM = Path(__file__).parents[1] / "programs" / "slowed.py"
STEPS, EVERY = 12, 2


def test_a_slow_rank_gets_less(mpirun, tmp_path, config, undisturbed):
    """Work is slept; the last rank takes two and a half times as long for a micro-batch."""
    given = ["1,1,0.4", "0.03", config, "--steps", STEPS, "--batch.leaves", 12]
    folder = tmp_path / "run"
    balance = ["--parallel.balance", EVERY, "--run.monitor_every", 1, "--run.dir", folder]
    balance += ["--checkpoint.every", EVERY]
    done = mpirun(3, PROGRAM, *map(str, [*given, *balance]))
    assert done.returncode == 0, done.stderr
    assert sha256(done) == undisturbed(STEPS, "--batch.leaves", "12")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in events]
    saved = [event["step"] for event in events if event["kind"] == "checkpoint"]
    assert saved == list(range(EVERY, STEPS + 1, EVERY)), "also where work moves meanwhile"
    assert "balance" in kinds and "slower, down to 0." in done.stderr
    assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))
    ranks = json.loads((folder / "ranks.json").read_text())["ranks"]
    first, second, slow = (rank["micros"] for rank in ranks)
    assert first + second + slow == 12 and slow < min(first, second)
