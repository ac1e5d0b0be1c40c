"""A node fails: all of its ranks, or its network. On two network namespaces of this machine.

The long form cuts the network before each of 20 steps.
"""

import sys
from pathlib import Path

import pytest
from launch import ROOT, run
from long import LONG
from slurm_cluster import missing
from training import sha256

from hpcpar.launch.mpirun import FAULT_TOLERANT

pytestmark = pytest.mark.slurm  # root, and Debian's iproute2
PROGRAM = Path(__file__).parents[1] / "programs" / "node_fails.py"


def two_nodes(how: str, config: Path, folder: Path, timeout: int, step: int = 5):
    if reason := missing():
        pytest.skip(reason)
    command = [
        str(ROOT / "benchmarks" / "two_nodes.sh"), "-n", "4", "--", *FAULT_TOLERANT,
        *(word for name in ("PATH", "PYTHONPATH") for word in ("-x", name)),
        sys.executable, str(PROGRAM), how, str(step), str(config), "--steps", "20",
        "--run.dir", str(folder), "--recovery", "shrink", "--timeout", str(timeout),
    ]  # fmt: skip
    return run(command, 55, env={"PYTHONPATH": str(ROOT)}, capture=True)


def test_all_ranks_of_a_node_are_lost(tmp_path, config, undisturbed):
    """Their parts lie on the other node."""
    done = two_nodes("ranks", config, tmp_path / "run", 30)
    assert done.returncode == 0, done.stderr
    assert "ranks 2-3 were lost: 2 ranks go on after step 4" in done.stderr
    assert sha256(done) == undisturbed(20)


@pytest.mark.parametrize("step", range(1, 21) if LONG else [5])
def test_a_network_that_is_cut_ends_with_a_verdict(tmp_path, config, step):
    """Open MPI cannot be told that a node is gone; and its launcher waits for that node."""
    done = two_nodes("cut", config, tmp_path / "run", 3, step)
    assert done.returncode not in (0, 1, 2), done.stderr
    rows = [line.split() for line in done.stderr.splitlines()]
    assert [row[0] for row in rows if row[1:3] == ["?", "missing"]] == ["2", "3"], done.stderr
