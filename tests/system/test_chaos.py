"""Ranks are killed and stopped in the middle of trainings: no step is lost, and the hash stays.

The seed of a launch is its number; HPCPAR_CHAOS draws others. The long form (`make chaos`) kills
100 ranks and stops 20.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from chaos import Outcome, draw_blows, strike
from long import LONG

STEPS = 40
FIRST_SEED = int(os.environ.get("HPCPAR_CHAOS", "1"))
# What the bits depend on, then ranks and the rest of the layout.
LAYOUTS = {
    "data": ("", 8, ""),
    "zero 0": ("", 4, "--parallel.zero 0"),
    "zero 2": ("", 5, "--parallel.zero 2"),
    "zero 3": ("", 6, "--parallel.zero 3"),
    "pipeline": ("", 4, "--parallel.pipeline 2"),
    "tensor": ("--parallel.tensor 2", 5, "--parallel.data 2"),
    "context": ("--parallel.context 2", 4, ""),
    "hybrid": ("--parallel.tensor 2", 8, "--parallel.pipeline 2 --parallel.zero 2"),
    "any": ("--reproducible layout", 6, "--parallel.tensor 2 --parallel.pipeline 3"),
}
SHORT = [("data", 8, 3, signal.SIGKILL), ("pipeline", 4, 1, signal.SIGKILL)]
SHORT += [("tensor", 4, 1, signal.SIGKILL), ("zero 3", 3, 1, signal.SIGSTOP)]


def plan() -> list[tuple[str, int, int, signal.Signals, int]]:
    """Layout, ranks, blows, their signal, seed."""
    if not LONG:
        return [(*launch, FIRST_SEED + i) for i, launch in enumerate(SHORT)]
    names, launches, seed = list(LAYOUTS), [], FIRST_SEED
    for number, total in ((signal.SIGKILL, 100), (signal.SIGSTOP, 20)):
        left = total
        while left:
            name = names[seed % len(names)]
            ranks = LAYOUTS[name][1] // 2 * 2 if name != "zero 2" else 5
            count = min(left, 1 + seed % (ranks // 2))
            launches.append((name, ranks, count, number, seed))
            left, seed = left - count, seed + 1
    return launches


@pytest.mark.parametrize(("name", "ranks", "count", "number", "seed"), plan())
@pytest.mark.timeout(100)
def test_no_step_is_lost(tmp_path, config, undisturbed, name, ranks, count, number, seed):
    bits, _, layout = LAYOUTS[name]
    folder = tmp_path / "run"
    outcome = strike(
        ranks, [str(config), "--steps", str(STEPS), *bits.split(), *layout.split()],
        folder, draw_blows(seed, count, STEPS, number), limit=80,
    )  # fmt: skip
    said = f"seed {seed}, struck {outcome.struck}:\n{outcome.text}"
    assert outcome.status == 0, said
    assert len(outcome.struck) == count, said
    assert outcome.sha256 == undisturbed(STEPS, *bits.split()), said
    assert "newest checkpoint" not in outcome.text, f"steps were lost: {said}"
    assert told_once(outcome, folder), said


def told_once(outcome: Outcome, folder: Path) -> bool:
    """Every step has its line, every lost rank its sentence."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows] == list(range(1, STEPS + 1))
    names = all("rank" in line for line in outcome.text.splitlines() if "lost: " in line)
    lost = sum(line.count("lost: ") for line in outcome.text.splitlines() if "note" in line)
    return steps and names and 1 <= lost <= len(outcome.struck)
