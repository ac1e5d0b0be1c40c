"""Spikes in whole runs, on any layout; and what a run's folder tells of it."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos import Blow, strike
from launch import run, start_mpirun
from training import metrics, sha256, summary, train, write_config

POISONED = Path(__file__).parents[1] / "programs" / "poisoned.py"
# Its norm is above 1.2 times the median of those before at step 10, and the weights go back.
SPIKY = ["--steps", 24, "--checkpoint.every", 6, "--checkpoint.keep", 4, "--optim.lr", 0.05]
SPIKY += ["--optim.on_spike", "rollback", "--optim.spike", 1.2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"), "gpt")


@pytest.fixture(scope="module")
def spiky(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("spiky") / "run"
    done = train(start_mpirun, 3, config, *SPIKY, "--run.dir", folder)
    assert "step 10: gradient norm " in done.stderr and "the checkpoint of step 6" in done.stderr
    return folder


def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def curve(folder):
    keys = "step", "loss", "gradient_norm", "skipped", "rolled_back_to"
    return [{key: row[key] for key in keys if key in row} for row in metrics(folder)]


def monitor(*arguments):
    """The tool, without MPI."""
    return run([sys.executable, "-m", "hpcpar", "monitor", *map(str, arguments)], 30, capture=True)


def test_a_run_tells_what_happens(spiky):
    assert [row["step"] for row in metrics(spiky)] == list(range(1, 25))
    back = [row for row in metrics(spiky) if "rolled_back_to" in row]
    assert back[0]["step"] == 10 and back[0]["rolled_back_to"] == 6 and back[0]["skipped"]
    told = events(spiky)
    kinds = [event["kind"] for event in told]
    assert kinds[0] == "start" and kinds[-1] == "finished"
    assert kinds.count("rollback") == len(back)
    saved = [event["step"] for event in told if event["kind"] == "checkpoint"]
    assert saved == [6, 12, 18, 24]
    ranks = json.loads((spiky / "ranks.json").read_text())
    assert ranks["step"] == 20 and [rank["rank"] for rank in ranks["ranks"]] == [0, 1, 2]
    for rank in ranks["ranks"]:
        parts = sum(rank[kind] for kind in ("compute", "communication", "wait"))
        assert 0 < rank["compute"] < parts <= rank["wall"] and rank["memory"] > 1 << 20


def test_a_rollback_is_the_same_when_resumed_on_other_ranks(spiky, config, tmp_path):
    """From before the spike: what it is measured by comes from metrics.jsonl."""
    folder = tmp_path / "run"
    shutil.copytree(spiky, folder)
    for step in (12, 18, 24):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    done = train(start_mpirun, 1, "--run.dir", folder, "--run.resume", "true")
    assert sha256(done) == summary(spiky)["weights_sha256"]
    assert curve(folder) == curve(spiky)
    before = [event["kind"] for event in events(spiky)]
    kinds = [event["kind"] for event in events(folder)]
    assert kinds[: len(before) + 1] == [*before, "resumed"]


def test_a_rollback_is_the_same_after_a_lost_rank(spiky, config, tmp_path):
    """Rank 0, after a few steps: what the spike is measured by comes from the others' memory."""
    folder = tmp_path / "run"
    arguments = [str(config), *map(str, SPIKY)]
    outcome = strike(3, arguments, folder, [Blow(7, 0.0, 0, signal.SIGKILL)])
    assert outcome.status == 0 and outcome.struck, outcome.text
    assert outcome.sha256 == summary(spiky)["weights_sha256"], outcome.text
    assert curve(folder) == curve(spiky)
    kinds = [event["kind"] for event in events(folder)]
    assert kinds[0] == "start" and kinds.index("lost") + 1 == kinds.index("shrink")


def test_replay_knows_rollbacks(spiky):
    done = start_mpirun(2, "-m", "hpcpar", "replay", str(spiky), "--start", "0", "--step", "24")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sha256(done) == summary(spiky)["weights_sha256"]
    assert "losses and gradient norms of 24 steps: the same" in done.stdout


def test_skipped_steps_leave_the_weights_alone(config, tmp_path):
    done = train_poisoned(2, "nan", "1,2,3,4", config, tmp_path / "run", "skip", 4)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("gradient norm nan; it is skipped") == 4
    assert all(row["skipped"] for row in metrics(tmp_path / "run"))
    untouched = train(
        start_mpirun, 1, config, "--steps", 1, "--optim.lr", 1e-60,  # below float32
        "--run.dir", tmp_path / "first",
    )  # fmt: skip
    assert sha256(done) == sha256(untouched)


def test_rollbacks_in_vain_end(config, tmp_path):
    done = train_poisoned(1, "nan", "3,4,5,6", config, tmp_path / "run", "rollback", 9)
    assert done.returncode == 2, done.stderr
    assert "step 6: loss " in done.stderr and "has gone back 3 times" in done.stderr
    told = events(tmp_path / "run")
    assert [event["step"] for event in told if event["kind"] == "rollback"] == [3, 4, 5]
    shown = monitor(tmp_path / "run", "--once")
    assert shown.returncode == 0 and "run: failed: step 6: loss " in shown.stdout


def train_poisoned(ranks, poison, steps, config, folder, how, last):
    return start_mpirun(
        ranks, str(POISONED), poison, steps, str(config), "--steps", str(last),
        "--optim.on_spike", how, "--run.dir", str(folder),
    )  # fmt: skip


def test_the_monitor_shows_a_run_and_ends_with_it(spiky, tmp_path):
    shown = monitor("--once", spiky)
    assert shown.returncode == 0 and "run: done" in shown.stdout, shown.stderr
    assert "step 24 of 24" in shown.stdout and "newest checkpoint: step 24" in shown.stdout
    assert monitor(spiky).returncode == 0
    assert "there is no run here yet" in monitor("--once", tmp_path / "later").stdout


def test_the_monitor_ends_with_ctrl_c_and_starts_no_mpi(tmp_path):
    code = (
        "import signal, sys, runpy; sys.argv = ['hpcpar', 'monitor', sys.argv[1]]\n"
        # Tests in the background of a shell ignore it, and so would what they start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name != 'mpi4py', 'MPI is started'\n"
        "sys.meta_path.insert(0, No())\n"
        "runpy.run_module('hpcpar', run_name='__main__')\n"
    )
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "config.toml").write_text("steps = 3\n")
    ours, theirs = os.openpty()  # the view is alive on a terminal only
    command = [sys.executable, "-c", code, str(tmp_path / "later")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        seen, deadline = b"", time.monotonic() + 30
        while b"running" not in seen and time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and b"running" in seen, seen
    os.close(theirs)
    os.close(ours)
