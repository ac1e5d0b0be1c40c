"""Signals stop a run on all ranks at the same step, saved; resumed, it ends with the same bits.

Each stop costs two or three launches, of 2 to 3 s each.
"""

import sys
from pathlib import Path

import pytest
from launch import mpirun_command, run, start_mpirun
from training import metrics, sha256

from hpcpar.errors import EXIT_REQUEUE
from hpcpar.launch.mpirun import FAULT_TOLERANT

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "programs" / "signalled.py"
MPICH_PYTHON = ROOT / ".venv-mpich" / "bin" / "python"
STEPS = 16


def signalled(ranks, what, config, folder, *more, options=(), python=sys.executable):
    command = mpirun_command(
        ranks, str(PROGRAM), what, str(config), "--steps", str(STEPS), "--run.dir", str(folder),
        "--checkpoint.every", "5", *more, options=options, python=str(python),
    )  # fmt: skip
    return run(command, 60, capture=True)


def stopped_after(done, folder) -> int:
    """The one step that is told, written down and saved."""
    assert done.returncode == EXIT_REQUEUE, done.stdout + done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("hpcpar: stopped")]
    step = int(said.removeprefix("hpcpar: stopped after step ").partition(",")[0])
    assert "saved: start again with --run.dir" in said and "Traceback" not in done.stderr
    assert [row["step"] for row in metrics(folder)] == list(range(1, step + 1))
    assert (folder / "checkpoints" / f"step-{step:08}" / "manifest.json").is_file()
    assert not (folder / "summary.json").exists()
    return step


def resumed(config, folder) -> str:
    train = ["-m", "hpcpar.train", str(config), "--steps", str(STEPS), "--recovery", "none"]
    done = start_mpirun(2, *train, "--run.dir", str(folder), "--run.resume", "true")
    return sha256(done)


def test_one_rank_that_is_asked_stops_all(tmp_path, config, undisturbed):
    folder = tmp_path / "run"
    done = signalled(3, "1@7:SIGTERM", config, folder)
    assert stopped_after(done, folder) == 7
    assert resumed(config, folder) == undisturbed(STEPS)


@pytest.mark.parametrize("python", [sys.executable, MPICH_PYTHON], ids=["openmpi", "mpich"])
def test_ctrl_c_on_the_launcher_saves(tmp_path, config, python):
    """It comes to the ranks as SIGUSR1."""
    if not Path(python).exists():
        pytest.skip("there is no .venv-mpich (make mpich makes it)")
    folder = tmp_path / "run"
    done = signalled(2, "1@6:SIGINT+", config, folder, python=python)
    assert stopped_after(done, folder) in (6, 7)  # the other rank's may come later


def test_a_stop_while_a_rank_is_lost(tmp_path, config, undisturbed):
    folder = tmp_path / "run"
    done = signalled(
        3, "0@7:SIGTERM,2@7:SIGKILL", config, folder, "--recovery", "shrink",
        options=FAULT_TOLERANT,
    )  # fmt: skip
    assert "rank 2 was lost: 2 ranks go on after step 6" in done.stderr
    assert stopped_after(done, folder) == 7
    assert resumed(config, folder) == undisturbed(STEPS)


def test_a_stop_at_the_last_step_is_its_end(tmp_path, config, undisturbed):
    done = signalled(2, f"0@{STEPS}:SIGTERM", config, tmp_path / "run")
    assert done.returncode == 0 and sha256(done) == undisturbed(STEPS)


def test_a_second_ctrl_c_ends_at_once(tmp_path, config):
    done = signalled(1, "0@3:SIGINT,0@3:SIGINT", config, tmp_path / "run")
    assert done.returncode not in (0, EXIT_REQUEUE) and "KeyboardInterrupt" in done.stderr
    assert len(metrics(tmp_path / "run")) == 2
