"""slurm/train.sbatch on a real Slurm of three nodes: the weights are those of a plain mpirun."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from launch import start_mpirun
from slurm_cluster import Cluster, cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
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
            "SCRATCH": str(home / "scratch"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def run(self, *command: str) -> CompletedProcess[str]:
        return self.slurm.run(*command, cwd=self.home, environ=self.environ)

    def submit(self, *arguments: str) -> int:
        return self.slurm.submit(*arguments, cwd=self.home, environ=self.environ)

    def finish(self, job: int) -> str:
        """Wait for a job, which must succeed; returns what it has printed."""
        end = self.slurm.wait(job, timeout=90)
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

    def folder(self, job: int) -> Path:
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
    folder = tmp_path_factory.mktemp("plain")
    run = ["-m", "hpcpar.train", *SMALL, "--steps", "5", "--run.dir", str(folder / "run")]
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


def test_a_requeued_job_goes_on_from_its_checkpoint(user: User) -> None:
    # The run would take for ever; when it has been interrupted it is told to end soon.
    goal = user.home / "goal.toml"
    goal.write_text("steps = 1_000_000_000\n")
    shape = ["--nodes=2", "--ntasks-per-node=1"]
    job = user.submit(*shape, str(SCRIPT), str(goal), *SMALL, "--checkpoint.every", "20")
    user.until(job, lambda: len(steps(user.folder(job))) > 40)

    user.run("scontrol", "requeue", str(job))
    user.until(job, lambda: user.slurm.state(job).state == "PENDING")
    last = steps(user.folder(job))[-1] + 5
    goal.write_text(f"steps = {last}\n")
    user.finish(job)
    assert steps(user.folder(job)) == list(range(1, last + 1))


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
