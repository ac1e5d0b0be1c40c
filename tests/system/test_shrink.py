"""What else is handled as a lost rank: one that hangs, one that computes wrongly."""

from pathlib import Path

from launch import mpirun_command, run, start_mpirun
from training import sha256

from hpcpar.comm.lost import survives
from hpcpar.launch.mpirun import FAULT_TOLERANT

PROGRAMS = Path(__file__).parents[1] / "programs"


def shrinking(ranks: int, *arguments: object):
    command = mpirun_command(
        ranks, *map(str, arguments), "--recovery", "shrink", options=FAULT_TOLERANT
    )
    return run(command, 60, capture=True)


def test_a_hung_rank_is_named_killed_and_lost(tmp_path, config, undisturbed):
    folder = tmp_path / "run"
    done = shrinking(
        3, PROGRAMS / "hung.py", 1, 5, config, "--steps", 20, "--run.dir", folder, "--timeout", 3
    )
    assert done.returncode == 0, done.stderr
    named = [line for line in done.stderr.splitlines() if line.endswith("is killed, and lost")]
    assert len(named) == 1 and "rank 1 is outside of hpcpar at hung.py:" in named[0]
    assert "rank 1 was lost: 2 ranks go on after step 4" in done.stderr
    assert sha256(done) == undisturbed(20)


def test_hung_ranks_that_are_most_end_the_run_with_a_verdict(tmp_path, config):
    done = shrinking(
        2, PROGRAMS / "hung.py", 1, 5, config, "--steps", 20, "--run.dir", tmp_path / "run",
        "--timeout", 2,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "rank 1 is outside of hpcpar at hung.py:" in done.stderr


def test_a_rank_that_computes_wrongly_is_dismissed(tmp_path, config):
    """Audited at the first step, so that nothing of its own is in the result."""
    done = shrinking(
        3, PROGRAMS / "flipped.py", 1, config, "--steps", 20, "--run.dir", tmp_path / "run",
        "--audit", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrong bits: rank 1 (on " in done.stderr and "it is dismissed" in done.stderr
    assert "rank 1 was lost: 2 ranks go on" in done.stderr


def test_an_mpi_that_cannot_is_told_at_the_start(config, tmp_path):
    assert not survives(), "this process was started without"
    done = start_mpirun(
        2, "-m", "hpcpar.train", config, "--recovery", "shrink", "--run.dir", str(tmp_path / "r")
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("hpcpar: --recovery shrink: mpirun was started without") == 1
