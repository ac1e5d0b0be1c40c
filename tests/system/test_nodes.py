"""A node fails: all of its ranks, or its network. On two network namespaces of this machine."""

import sys
from pathlib import Path

import pytest
from chaos import FAULT_TOLERANT
from launch import ROOT, run, start_mpirun
from slurm_cluster import missing
from training import sha256, write_config

pytestmark = pytest.mark.slurm  # root, and Debian's iproute2
PROGRAM = Path(__file__).parents[1] / "programs" / "node_fails.py"


def two_nodes(how: str, config: Path, folder: Path, timeout: int):
    if reason := missing():
        pytest.skip(reason)
    command = [
        str(ROOT / "benchmarks" / "two_nodes.sh"), "-n", "4", "--", *FAULT_TOLERANT,
        *(word for name in ("PATH", "PYTHONPATH") for word in ("-x", name)),
        sys.executable, str(PROGRAM), how, "5", str(config), "--steps", "20",
        "--run.dir", str(folder), "--recovery", "shrink", "--timeout", str(timeout),
    ]  # fmt: skip
    return run(command, 55, env={"PYTHONPATH": str(ROOT)}, capture=True)


def test_all_ranks_of_a_node_are_lost(tmp_path):
    """Their parts lie on the other node."""
    config = write_config(tmp_path, "gpt")
    done = two_nodes("ranks", config, tmp_path / "run", 30)
    assert done.returncode == 0, done.stderr
    assert "ranks 2-3 were lost: 2 ranks go on after step 4" in done.stderr
    whole = start_mpirun(
        1, "-m", "hpcpar.train", str(config), "--steps", "20", "--run.dir", str(tmp_path / "whole")
    )  # fmt: skip
    assert sha256(done) == sha256(whole)


def test_a_network_that_is_cut_ends_with_a_verdict(tmp_path):
    """Open MPI cannot be told that a node is gone; and its launcher waits for that node."""
    done = two_nodes("cut", write_config(tmp_path, "gpt"), tmp_path / "run", 3)
    assert done.returncode not in (0, 1, 2), done.stderr
    assert "nothing is known of ranks 2-3" in done.stderr or "missing" in done.stderr
