"""A job that dies is started again, a bounded number of times, and ends with the same bits.

Each job costs 2 to 3 s; nothing of it may be left. The restarts of the first and second tests make
two or three jobs each.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import run, start_mpirun
from long import LONG
from training import metrics, sha256, summary

from hpcpar.errors import EXIT_REQUEUE

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "programs" / "signalled.py"
MPICH_PYTHON = ROOT / ".venv-mpich" / "bin" / "python"
STEPS = 16


def launch(
    folder: Path, *arguments: object, python: Path | str = sys.executable, **environ: str
) -> subprocess.CompletedProcess[str]:
    """With a folder for the marks of signals that come once, in which it works."""
    command = [str(python), "-m", "hpcpar", "launch", *map(str, arguments)]
    environ = {"HPCPAR_MARK": str(folder), "PYTHONPATH": str(ROOT)} | environ
    done = run(command, 90, env=environ, cwd=folder, capture=True)
    assert not left(folder), "processes are left"
    return done


def left(folder: Path) -> list[str]:
    """What still works in a folder, ten seconds later at most."""
    deadline = time.monotonic() + 10
    while (found := list(working_in(folder))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def processes() -> list[str]:
    return list(filter(str.isdigit, os.listdir("/proc")))


def working_in(folder: Path):
    for name in processes():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/cwd") == str(folder):
                yield Path("/proc", name, "cmdline").read_text()


def training(python: Path | str, what: str, config: Path, *more: object) -> list[object]:
    arguments = ["--steps", STEPS, "--checkpoint.every", 5, *more]
    return ["--", python, PROGRAM, what, config, *arguments]


@pytest.mark.parametrize(
    ("python", "recovery", "blows", "after"),
    [
        pytest.param(sys.executable, "relaunch", "0@1,1@8", 7, id="memory"),
        pytest.param(MPICH_PYTHON, "relaunch", "1@8", 7, id="memory, mpich"),
        pytest.param(sys.executable, "none", "1@8", 5, id="disk"),
    ],
)
def test_a_killed_rank(tmp_path, config, undisturbed, python, recovery, blows, after):
    """It costs no step where the state is in memory, else those since the checkpoint."""
    if not Path(python).exists():
        pytest.skip("there is no .venv-mpich (make mpich makes it)")
    layout = ("--parallel.pipeline", 2, "--parallel.zero", 1)
    blows, others = ",".join(f"{blow}:SIGKILL" for blow in blows.split(",")), keepers()
    program = training(python, blows, config, "--recovery", recovery, *layout)
    done = launch(tmp_path, "-n", 4, *program, python=python)
    assert done.returncode == 0, done.stderr
    *first, last = told(done)
    assert "after step 7: it is started again on 4 ranks" in last
    assert len(first) == blows.count(","), first
    assert f"continuing after step {after}" in done.stdout and sha256(done) == undisturbed(STEPS)
    (folder,) = (tmp_path / "runs").iterdir()  # which launch has chosen
    assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))
    deadline = time.monotonic() + 10
    while (mine := keepers() - others) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not mine, "it ends with launch"


if LONG:  # make chaos

    @pytest.mark.parametrize("seed", range(5))
    def test_any_rank_is_killed_again_and_again(tmp_path, config, undisturbed, seed):
        """Four times in a run; with the state in memory no step is lost."""
        draw = random.Random(seed)
        ranks, *layout = draw.choice([(5, "zero", 0), (4, "zero", 3), (4, "pipeline", 2)])
        steps = sorted(draw.sample(range(2, STEPS + 1), 4))
        blows = ",".join(f"{draw.randrange(ranks)}@{step}:SIGKILL" for step in steps)
        layout = (f"--parallel.{layout[0]}", layout[1])
        program = training(sys.executable, blows, config, "--recovery", "relaunch", *layout)
        done = launch(tmp_path, "-n", ranks, *program)
        assert done.returncode == 0, f"{blows}: {done.stderr}"
        found = [
            int(step) for step in re.findall(r"^continuing after step (\d+)", done.stdout, re.M)
        ]
        assert found == [step - 1 for step in steps], blows
        assert sha256(done) == undisturbed(STEPS)
        (folder,) = (tmp_path / "runs").iterdir()
        assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("recovery", "batches"),
    [
        pytest.param("shrink", 2 * 3 + 3 * 2 + (STEPS - 5) * 3, id="fewer ranks, then all again"),
        pytest.param("relaunch", STEPS * 3, id="from memory"),
    ],
)
def test_by_batch_none_is_left_out_or_used_twice(tmp_path, config, recovery, batches):
    """A rank is lost in step 3; how many batches were used stands in the last checkpoint."""
    program = training(sys.executable, "1@3:SIGKILL", config, "--recovery", recovery)
    by_batch = ("--data.partition", "batch", "--batch.size", 12, "--run.dir", "run")
    done = launch(tmp_path, "-n", 3, *program, *by_batch)
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json"
    assert json.loads(last.read_text())["sampler"] == [0, 12 * batches]


def test_lost_ranks_are_taken_in_again_at_the_next_checkpoint(tmp_path, config, undisturbed):
    program = training(sys.executable, "1@3:SIGKILL", config, "--recovery", "shrink")
    done = launch(tmp_path, "-n", 3, *program, "--run.dir", "run")
    assert done.returncode == 0, done.stderr
    assert told(done) == [
        "hpcpar launch: lost ranks are taken in again after step 5: 3 ranks are started"
    ]
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert [kind for kind in kinds if kind not in ("checkpoint", "straggler")] == [
        "start", "lost", "shrink", "regrow", "resumed", "finished",
    ]  # fmt: skip
    assert summary(tmp_path / "run")["layout"]["ranks"] == 3
    assert sha256(done) == undisturbed(STEPS)


def test_restarts_without_a_new_step_are_bounded(tmp_path, config):
    program = training(sys.executable, "0@3:SIGKILL", config, "--run.dir", "run")
    done = launch(tmp_path, "-n", 2, "--restarts", 2, *program, HPCPAR_MARK="")
    assert done.returncode == 3, done.stderr
    *again, last = told(done)
    assert [line.rpartition(" on ")[2] for line in again] == ["2 ranks", "2 ranks"]
    assert "no step beyond 2 in 2 restarts" in last


def test_ctrl_c_saves_and_starts_nothing(tmp_path, config, undisturbed):
    """Sent by a rank to the group in which launch was started, as a terminal does."""
    program = training(sys.executable, "1@6:SIGINT+", config, "--recovery", "shrink")
    done = launch(tmp_path, "-n", 2, *program)
    assert done.returncode == EXIT_REQUEUE, done.stderr
    assert "hpcpar: stopped after step" in done.stderr and not told(done)
    (folder,) = (tmp_path / "runs").iterdir()
    rest = training(sys.executable, "9@1:SIGINT", config, "--run.dir", folder)
    done = launch(tmp_path, "-n", 1, *rest, "--run.resume", "true", "--recovery", "none")
    assert sha256(done) == undisturbed(STEPS)


def test_a_job_that_says_nothing_is_ended(tmp_path):
    """As where a rank is lost while MPI starts; a rank that nobody would end is left over."""
    program = ["sh", "-c", "trap '' HUP TERM; sleep 60"]
    done = launch(tmp_path, "-n", 1, "--restarts", 0, "--start-limit", 1.5, "--", *program)
    assert done.returncode == 3, done.stderr
    assert "showed no sign of life and was ended" in told(done)[0]


def test_a_mistake_of_the_program_is_told_once(tmp_path, config):
    program = training(sys.executable, "9@1:SIGINT", config, "--optim.lr", "-1")
    done = launch(tmp_path, "-n", 2, *program)
    assert done.returncode == 2 and not told(done), done.stderr


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["-n", "0", "--", "true"], {}, "-n is 0; it must be at least 1"),
        (["-n", "2", "--", "true"], {"PMI_SIZE": "2"}, "launch starts mpirun itself"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, environ, said):
    done = launch(tmp_path, *words, **environ)
    assert done.returncode == 2
    assert done.stderr.startswith("hpcpar launch: ") and said in done.stderr
    assert done.stderr.count("\n") == 1


def test_relaunch_wants_a_launcher(tmp_path, config):
    done = start_mpirun(
        2, "-m", "hpcpar.train", str(config), "--recovery", "relaunch",
        "--run.dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("hpcpar: --recovery relaunch: nobody would start this run again") == 1


def test_the_benchmark_measures_a_restart(tmp_path):
    report = tmp_path / "report.json"
    program = [sys.executable, str(ROOT / "benchmarks" / "relaunch.py"), "--short"]
    done = run([*program, "--json", str(report)], 60, env={"PYTHONPATH": str(ROOT)}, capture=True)
    assert done.returncode == 0, done.stderr
    memory, disk = json.loads(report.read_text())["rows"]
    assert (memory["from"], disk["from"]) == ("memory", "disk")
    assert all(0 < row["next_step"] <= row["new_step"] for row in (memory, disk))
    assert "from memory, next step: median" in done.stdout


def keepers() -> set[str]:
    """The processes that hold memory."""
    return {pid for pid in processes() if is_keeper(pid)}


def is_keeper(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return b"hpcpar.apart.keeper" in Path("/proc", pid, "cmdline").read_bytes()
    return False


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("hpcpar launch: ")]
