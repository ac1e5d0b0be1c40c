"""slurm/train.sbatch on a real Slurm of three nodes: the weights are those of a plain mpirun."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from launch import start_mpirun
from long import LONG
from slurm_cluster import Cluster, cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
ARRAY = SCRIPT.with_name("array.sbatch")
SMALL = [
    *("--data.paths", argparse.__file__),  # 100 kB of text that every Python has
    *("--model.layers", "1", "--model.heads", "2", "--model.width", "32", "--model.context", "32"),
    *("--batch.size", "8", "--batch.micro", "1"),
]

# In place of hpcpar.train where the machine has no GPUs to train on.
LOOK_FOR_GPUS = """
import os
print(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"], "sees", os.environ["CUDA_VISIBLE_DEVICES"])
"""


class User:
    """Somebody who has this Python's environment active and works in a folder of their own."""

    def __init__(self, slurm: Cluster, home: Path) -> None:
        self.slurm = slurm
        self.home = home
        bin = Path(sys.executable).parent
        self.environ = {
            "PATH": f"{bin}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(bin.parent),
            "HOME": str(home),
            "PYTHONPATH": str(SCRIPT.parents[1]),
            "SCRATCH": str(home / "scratch"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def run(self, *command: str) -> CompletedProcess[str]:
        return self.slurm.run(*command, cwd=self.home, environ=self.environ)

    def submit(self, *arguments: str) -> int:
        return self.slurm.submit(*arguments, cwd=self.home, environ=self.environ)

    def finish(self, job: int, limit: float = 90) -> str:
        """Wait for a job, which must succeed; returns what it has printed."""
        end = self.slurm.wait(job, timeout=limit)
        log = (self.home / f"hpcpar-{job}.out").read_text()
        assert (end.state, end.status) == ("COMPLETED", 0), log
        return log

    def until(self, job: int, happened: Callable[[], bool]) -> None:
        """Wait until something has happened, for a minute at most, while a job goes on."""
        deadline = time.monotonic() + 60
        while not happened():
            state = self.slurm.state(job).state
            log = self.home / f"hpcpar-{job}.out"
            assert state not in ("FAILED", "COMPLETED"), log.read_text()
            assert time.monotonic() < deadline, f"not within a minute, the job is {state}"
            time.sleep(0.2)

    def folder(self, job: int | str) -> Path:
        """The folder of the run that a job does."""
        return self.home / "scratch" / "runs" / str(job)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    with cluster(nodes=3, cpus=4, gpus=4) as running:
        yield running


@pytest.fixture
def user(slurm: Cluster, tmp_path: Path) -> User:
    return User(slurm, tmp_path)


@pytest.fixture(scope="module")
def plain_weights(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of five steps on two ranks without Slurm."""
    return plain(tmp_path_factory.mktemp("plain"), "--steps", "5")


def plain(folder: Path, *arguments: str) -> str:
    """The hash of a run on two ranks without Slurm."""
    run = ["-m", "hpcpar.train", *SMALL, *arguments, "--run.dir", str(folder / "run")]
    done = start_mpirun(2, *run, env={"XDG_CACHE_HOME": str(folder)})
    assert done.returncode == 0, done.stderr
    return weights(done.stdout)


@pytest.mark.parametrize(
    "launcher, shape",
    [
        ("mpirun", ["--nodes=3", "--ntasks-per-node=1"]),
        ("srun", ["--nodes=2", "--ntasks-per-node=2"]),
    ],
    ids=["mpirun", "srun"],
)
def test_a_job_trains_the_weights_of_a_plain_run(
    user: User, plain_weights: str, launcher: str, shape: list[str]
) -> None:
    if launcher == "srun" and user.run("srun", "--mpi=pmix", "true").returncode:
        pytest.skip("Slurm's PMIx plugin does not find libpmix.so: Debian's libpmix-dev")
    user.environ["HPCPAR_LAUNCHER"] = launcher
    job = user.submit(*shape, str(SCRIPT), *SMALL, "--steps", "5")
    log = user.finish(job)
    assert weights(log) == plain_weights
    assert "Sorry!" not in log and "UCX" not in log  # MPI has nothing to say
    assert steps(user.folder(job)) == [1, 2, 3, 4, 5]


def test_srun_that_starts_single_worlds_is_refused(user: User) -> None:
    python = [sys.executable, "-m", "hpcpar.train", *SMALL, "--run.dir", "run"]
    done = user.run("srun", "--nodes=2", "--ntasks=2", *python)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("srun: ")]
    assert len(said) == 1 and "--mpi=pmix" in said[0], done.stderr
    assert not (user.home / "run").exists()


def test_a_mistake_is_the_exit_status_of_the_job(user: User) -> None:
    job = user.submit("--nodes=2", "--ntasks-per-node=1", str(SCRIPT), *SMALL, "--stepz", "5")
    end = user.slurm.wait(job, timeout=60)
    assert (end.state, end.status) == ("FAILED", 2)
    assert not user.folder(job).exists()


@pytest.mark.timeout(240)
def test_a_job_that_is_stopped_and_loses_a_node_ends_with_the_same_bits(user: User) -> None:
    """The run would take for ever; when all has happened it is told to end soon. 60 s, of which
    Slurm waits 15 s before it starts a job again, twice.
    """
    goal, constant = user.home / "goal.toml", ["--optim.schedule", "constant"]
    goal.write_text("steps = 1_000_000_000\n")
    shape = ["--nodes=2", "--ntasks-per-node=1"]
    if LONG:  # as it really comes: within the last minute before the time given
        shape += ["--time=1", "--signal=B:USR1@45"]
    job = user.submit(*shape, str(SCRIPT), str(goal), *SMALL, *constant)
    log = user.home / f"hpcpar-{job}.out"
    user.until(job, lambda: len(steps(user.folder(job))) > 20)
    if not LONG:
        user.run("pkill", "-USR1", "-f", f"/job{job:05}/slurm_script")  # the shell alone
    user.until(job, lambda: user.slurm.state(job).state == "PENDING")
    (stopped,) = re.findall(r"stopped after step (\d+), saved", log.read_text())
    assert f"job {job} ended with status 75" in log.read_text()
    assert steps(user.folder(job)) == list(range(1, int(stopped) + 1))

    user.run("scontrol", "update", f"job={job}", "timelimit=10")
    user.until(job, lambda: len(steps(user.folder(job))) > int(stopped) + 20)
    assert f"continuing after step {stopped}" in log.read_text()
    name = user.run("squeue", "--noheader", "--format=%B", f"--job={job}").stdout.strip()
    user.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")
    try:
        user.until(job, lambda: user.slurm.state(job).state == "PENDING")
        last = steps(user.folder(job))[-1] + 5
        goal.write_text(f"steps = {last}\n")
        log = user.finish(job)
    finally:
        user.run("scontrol", "update", f"nodename={name}", "state=resume")
    assert steps(user.folder(job)) == list(range(1, last + 1))
    assert weights(log) == plain(user.home, *constant, "--steps", str(last))


@pytest.mark.timeout(240)
def test_launch_goes_on_inside_the_job_on_the_nodes_that_are_left(user: User) -> None:
    """All ranks stand still while the goal is set, so that none is beyond it.

    Slurm may take half a minute to end what was lost on a node, and lets nobody on it meanwhile.
    """
    goal, constant = user.home / "goal.toml", ["--optim.schedule", "constant"]
    goal.write_text("steps = 1_000_000_000\n")
    user.environ["HPCPAR_LAUNCHER"] = "launch"
    shape = ["--nodes=3", "--ntasks-per-node=1", "--no-kill"]
    every = ["--checkpoint.every", "10"]
    job = user.submit(*shape, str(SCRIPT), str(goal), *SMALL, *constant, *every)
    user.until(job, lambda: len(steps(user.folder(job))) > 20)
    user.run("pkill", "-STOP", "-f", "^python -m hpcpar.train")
    last = steps(user.folder(job))[-1] + 5
    goal.write_text(f"steps = {last}\n")
    user.run("scontrol", "update", "nodename=node2", "state=down", "reason=test")
    try:
        log = user.finish(job, 180)
    finally:
        user.run("scontrol", "update", "nodename=node2", "state=resume")
    told = re.findall(r"hpcpar launch: (.*)", log)  # a line of the job's may have been begun
    assert told[0] == "host node2 cannot be reached", told
    assert len(told) == 2 and told[1].endswith("it is started again on 2 ranks"), told
    assert steps(user.folder(job)) == list(range(1, last + 1))
    assert weights(log) == plain(user.home, *constant, "--steps", str(last))


def test_an_array_is_a_sweep(user: User, plain_weights: str) -> None:
    sweep = user.home / "sweep.txt"
    sweep.write_text("--steps 5\n--steps 5 --parallel.zero 2\n")
    shape = ["--array=1-3", "--nodes=1", "--ntasks-per-node=2"]
    job = user.submit(*shape, str(ARRAY), str(sweep), *SMALL)
    ends = {task: user.slurm.wait(f"{job}_{task}", timeout=90) for task in (1, 2, 3)}
    logs = {task: (user.home / f"hpcpar-{job}_{task}.out").read_text() for task in ends}
    assert [weights(logs[task]) for task in (1, 2)] == 2 * [plain_weights]
    assert [ends[task].status for task in ends] == [0, 0, 2] and "no line 3" in logs[3]
    assert steps(user.folder(f"{job}-2")) == [1, 2, 3, 4, 5]


def test_an_array_is_a_chain(user: User, plain_weights: str) -> None:
    """Its first job does all that there is to do, the second has nothing left."""
    shape = ["--array=1-2%1", "--nodes=1", "--ntasks-per-node=2"]
    job = user.submit(*shape, str(ARRAY), "chain", *SMALL, "--steps", "5")
    for task in (1, 2):
        assert user.slurm.wait(f"{job}_{task}", timeout=90).status == 0
    assert weights((user.home / f"hpcpar-{job}_1.out").read_text()) == plain_weights
    assert f"run {job} is done" in (user.home / f"hpcpar-{job}_2.out").read_text()


def test_a_job_multiplies_matrices(user: User) -> None:
    """slurm/matmul.sbatch, which is submitted from the repository's folder."""
    output, root = user.home / "matmul.out", SCRIPT.parents[1]
    shape = ["--nodes=2", "--ntasks-per-node=2", f"--output={output}"]
    case = ["--cases", "300,200,100", "--rounds", "1"]
    job = user.slurm.submit(
        *shape, str(SCRIPT.with_name("matmul.sbatch")), *case, cwd=root, environ=user.environ
    )
    end = user.slurm.wait(job, timeout=90)
    assert (end.state, end.status) == ("COMPLETED", 0), output.read_text()
    report = json.loads(
        (user.home / "scratch" / "benchmarks" / str(job) / "matmul.json").read_text()
    )
    (row,) = [row for row in report["rows"] if row["algorithm"] == "hpcpar, auto"]
    assert (row["ranks"], row["m"], row["n"], row["k"]) == (4, 300, 200, 100)
    assert row["status"] == "pass" and row["words_measured"] == row["words_predicted"]


def test_every_rank_sees_all_gpus_of_its_node(user: User) -> None:
    package = user.home / "hpcpar"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text(LOOK_FOR_GPUS)
    user.environ["PYTHONPATH"] = str(user.home)
    job = user.submit("--nodes=2", "--gpus-per-node=4", "--gpu-bind=none", str(SCRIPT))
    two_nodes = 2 * [f"{local} sees 0,1,2,3" for local in range(4)]
    assert sorted(user.finish(job).splitlines()) == sorted(two_nodes)


def weights(text: str) -> str:
    """The last line of what a run has printed, which is the hash of its weights."""
    line = text.splitlines()[-1] if text else ""
    assert line.startswith("weights sha256 "), text
    return line


def steps(run: Path) -> list[int]:
    """The steps in metrics.jsonl, as far as it is written; a line may still be on its way."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]
