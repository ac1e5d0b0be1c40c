"""Where shared memory comes from, and what is left of it."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from launch import ROOT, mpirun_command, run

PROGRAM = """
import os, signal, sys
import numpy as np
import hpcpar
comm = hpcpar.Communicator(device="cpu", timeout=20)
s = comm.symmetric(100 << 20, np.uint8)
s.local[:] = comm.rank + 1
comm.allreduce(s, out=s)
assert (s.local == 6).all()
print("shared", flush=True)
comm.barrier()
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""

private_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="takes root, for a /dev/shm of its own",
)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@private_mounts
def test_a_container_with_64_mb_of_dev_shm(program, tmp_path):
    """300 MB of symmetric arrays where /dev/shm, which MPI itself needs, has 64 MB."""
    command = " ".join(mpirun_command(3, str(program), "end"))
    script = f"mount -t tmpfs -o size=64m none /dev/shm && df -m /dev/shm && exec {command}"
    done = run(["unshare", "--mount", "bash", "-c", script], 60, cwd=ROOT, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("shared") == 3 and " 64 " in done.stdout


def test_nothing_is_left_after_sigkill(program, tmp_path):
    """No file anywhere, no process, no mapping: the memory is gone with its processes."""
    folders = [Path("/dev/shm"), tmp_path / "tmp"]
    folders[1].mkdir()
    done = run(
        mpirun_command(3, str(program), "kill"), 60, env={"TMPDIR": str(folders[1])}, capture=True
    )
    assert done.returncode == 128 + signal.SIGKILL, done.stdout + done.stderr
    assert done.stdout.count("shared") == 3
    ours = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in ours if path.stat().st_size > 50 << 20]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps, command = (process / "maps").read_text(), (process / "cmdline").read_text()
        except OSError:
            continue
        assert not ("memfd:hpcpar" in maps and str(program) in command)
