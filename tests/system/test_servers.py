"""Training with servers: the bits of training without, a bound on staleness, servers that die."""

import json
import random
import shutil
from pathlib import Path

import pytest
from launch import mpirun_command, run, start_mpirun
from long import LONG
from training import metrics, sha256, summary, train_all

from hpcpar.errors import EXIT_HANG, EXIT_REQUEUE
from hpcpar.launch.mpirun import FAULT_TOLERANT

pytestmark = pytest.mark.timeout(240)  # a launch of many trainings has 150 s
PROGRAM = Path(__file__).parents[1] / "programs" / "server_dies.py"
STEPS = 12
SERVERS = "--sync.servers"
RUNS = {
    "bsp": (3, [SERVERS, 1]),
    "ssp 0": (6, [SERVERS, 2, "--sync.mode", "ssp"]),
    "ssp 2": (6, [SERVERS, 3, "--sync.mode", "ssp", "--sync.staleness", 2]),
    "asp": (4, [SERVERS, 2, "--sync.mode", "asp"]),
    "bf16": (3, [SERVERS, 1, "--sync.wire", "bf16"]),
    "momentum": (4, [SERVERS, 2, "--optim.name", "momentum"]),
    "momentum alone": (2, ["--optim.name", "momentum"]),
    "sgd": (4, [SERVERS, 2, "--optim.name", "sgd"]),
    "sgd alone": (2, ["--optim.name", "sgd"]),
    "local": (3, ["--sync.mode", "local", "--sync.every", 4]),
    "local alone": (1, ["--sync.mode", "local", "--sync.every", 5]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config):
    """Trainings in one launch: their folder, and what each has said."""
    folder = tmp_path_factory.mktemp("servers")
    given = [config, "--steps", STEPS, "--checkpoint.every", 4]
    told = {name: (ranks, [*given, *words]) for name, (ranks, words) in RUNS.items()}
    return folder, train_all(start_mpirun, folder, told)


@pytest.mark.parametrize("name", ["bsp", "ssp 0"])
def test_the_bits_of_training_without_servers(runs, undisturbed, name):
    assert sha256(runs[1][name]) == undisturbed(STEPS)


@pytest.mark.parametrize("name", ["momentum", "sgd"])
def test_every_optimizer(runs, name):
    assert sha256(runs[1][name]) == sha256(runs[1][f"{name} alone"])


@pytest.mark.parametrize("name", ["ssp 2", "asp", "bf16"])
def test_others_learn_too(runs, undisturbed, name):
    rows = metrics(runs[0] / name)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"] and sha256(runs[1][name]) != undisturbed(STEPS)
    told = summary(runs[0] / name)["sync"]
    assert told["pulls"] > STEPS and told["bytes"] > 0


def test_local_steps_are_ordinary_ones_until_workers_meet(runs, straight_rows):
    """On one worker; on three each has a share of the samples."""
    folder = runs[0]
    alone = metrics(folder / "local alone")
    same = [a["loss"] == b["loss"] for a, b in zip(alone, straight_rows, strict=True)]
    assert all(same[:5]) and not any(same[5:]), "the weights after step 5 are those of a meeting"
    rows, told = metrics(folder / "local"), summary(folder / "local")["sync"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert told["meetings"] == 3 and rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["loss"] == straight_rows[0]["loss"], "the same samples, and the same sum"


@pytest.fixture(scope="module")
def straight_rows(runs):
    """Of training as always."""
    return metrics(runs[0] / "bsp")


def test_it_goes_on_from_a_checkpoint(runs, tmp_path, undisturbed):
    """As if killed after step 8; on other ranks, with other servers and without."""
    told = {}
    for name, ranks, *mode in (
        ("bsp", 6, SERVERS, 3),
        ("ssp 0", 2, SERVERS, 0, "--sync.mode", "bsp"),
        ("local", 3),
    ):
        shutil.copytree(runs[0] / name, tmp_path / name)
        (tmp_path / name / "summary.json").unlink()
        shutil.rmtree(tmp_path / name / "checkpoints" / f"step-{STEPS:08d}")
        told[name] = ranks, ["--run.resume", "true", *mode]
    said = train_all(start_mpirun, tmp_path, told)
    assert all("continuing after step 8" in said[name].stdout for name in told)
    assert sha256(said["bsp"]) == sha256(said["ssp 0"]) == undisturbed(STEPS)
    assert sha256(said["local"]) == sha256(runs[1]["local"])


def test_a_signal_stops_all_workers_at_the_same_step(tmp_path, config, undisturbed):
    """Which are not at the same step; what is saved goes on as if nothing had been."""
    folder = tmp_path / "run"
    words = [config, "--steps", STEPS, SERVERS, 1, "--run.dir", folder, "--sync.mode", "ssp"]
    done = start_mpirun(4, PROGRAM, "1@4", *map(str, words))
    assert done.returncode == EXIT_REQUEUE, done.stderr
    assert done.stderr.count("hpcpar: stopped after step 6, saved: start again with") == 1
    assert [row["step"] for row in metrics(folder)] == list(range(1, 7))
    again = [*words, "--run.resume", "true"]
    done = start_mpirun(3, "-m", "hpcpar.train", *map(str, again))
    assert done.returncode == 0 and sha256(done) == undisturbed(STEPS), done.stderr


def test_a_hung_worker_is_named(tmp_path, config):
    """Not the servers, though it is they who do not answer the others."""
    words = [config, "--steps", STEPS, SERVERS, 2, "--run.dir", tmp_path / "run", "--timeout", 2]
    blow = {"HPCPAR_BLOW": "SIGSTOP"}
    done = start_mpirun(5, PROGRAM, "1@3", *map(str, words), env=blow)
    assert done.returncode == EXIT_HANG, done.stderr
    assert done.stderr.count("hpcpar: rank 1 pushed nothing for 2 s: others wait") == 1
    assert " to answer" not in done.stderr, "the others leave it to the server to tell"


@pytest.mark.parametrize("seed", range(20) if LONG else [3])
def test_a_killed_server_loses_nothing(tmp_path, config, undisturbed, seed):
    """Any of three, at any letter of the training."""
    draw = random.Random(seed)
    blow = f"{draw.randrange(3, 6)}@{draw.randrange(10, 90)}"
    words = [
        str(PROGRAM), blow, str(config), "--steps", str(STEPS), SERVERS, "3",
        "--recovery", "shrink", "--run.dir", str(tmp_path / "run"),
    ]  # fmt: skip
    done = run(mpirun_command(6, *words, options=FAULT_TOLERANT), 60, capture=True)
    assert done.returncode == 0, f"{blow}: {done.stderr}"
    assert "lost" in done.stderr and sha256(done) == undisturbed(STEPS), blow
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(1, STEPS + 1))


MISTAKES = [
    ("2", [SERVERS, "2"], "that leaves no worker"),
    ("2", ["--sync.mode", "ssp"], "needs --sync.servers, at least 1"),
    ("2", [SERVERS, "1", "--sync.staleness", "2"], "--sync.staleness goes with --sync.mode ssp"),
    ("2", [SERVERS, "1", "--sync.mode", "ssp", "--sync.staleness", "-1"], "at least 0"),
    ("3", [SERVERS, "1", "--parallel.pipeline", "2"], "leave --parallel.pipeline out"),
    ("3", [SERVERS, "1", "--parallel.zero", "2"], "--parallel.zero 0 or 1"),
    ("3", [SERVERS, "1", "--parallel.speeds", "1,1,1"], "3 numbers for 2 ranks"),  # workers alone
    ("3", [SERVERS, "1", "--optim.spike", "4"], "without --optim.spike"),
    ("2", ["--sync.mode", "local", "--optim.spike", "4"], "and without --optim.spike"),
    ("2", ["--sync.mode", "local", "--optim.lr", "1e20"], "loss nan"),
    ("3", [SERVERS, "1", "--audit", "2"], "leave it out with --sync.servers"),
    ("2", ["--sync.mode", "local", SERVERS, "1"], "leave --sync.servers out"),
]


def test_mistakes_are_one_sentence_each(config):
    """In one launch of a program that tries them one after the other."""
    tried = json.dumps([[int(n), *map(str, [config, *words])] for n, words, _ in MISTAKES])
    program = f"""
import json
import hpcpar.train
from hpcpar.comm import Communicator
from hpcpar.config import share_config
from hpcpar.entry import run_ranks
from hpcpar.errors import UserError

def main(world):
    for ranks, *words in json.loads({tried!r}):
        part = world.split(0 if world.rank < ranks else None)
        if part is None:
            continue
        hpcpar.train.Communicator = lambda **options: Communicator(part.mpi, **options)
        try:
            hpcpar.train.main(words, part)
        except UserError as error:
            if part.rank == 0:
                print("said:", error, flush=True)

run_ranks(main)
"""
    done = start_mpirun(3, "-c", program)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("said:")]
    assert len(said) == len(MISTAKES), done.stdout
    for line, (_, words, expected) in zip(said, MISTAKES, strict=True):
        assert expected in line, (words, line)
