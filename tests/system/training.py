"""Small training runs for tests, and what they leave behind."""

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
from mpi4py import MPI

from hpcpar.comm import Communicator
from hpcpar.tools import main as tools_main
from hpcpar.train import main as training_main

TRAININGS = Path(__file__).parents[1] / "programs" / "trainings.py"
Mpirun = Callable[..., CompletedProcess[str]]

GPT = """
[data]
paths = ["{text}"]
[model]
kind = "gpt"
layers = 2
heads = 2
width = 16
context = 16
[batch]
size = 24
micro = 2
leaves = 7
[optim]
warmup = 3
[run]
evaluate_every = 10
evaluate_samples = 30
"""

TABLE = """
[data]
kind = "table"
paths = ["sklearn:digits"]
[model]
kind = "{kind}"
layers = 2
width = 24
[batch]
size = 60
micro = 4
leaves = 13
"""


def write_text(path: Path) -> Path:
    """A text with words that come again, and some bytes that are not UTF-8."""
    random = np.random.default_rng(1)
    words = [
        bytes(random.integers(97, 123, random.integers(2, 9)).astype(np.uint8)) for _ in range(40)
    ]
    text = b" ".join(words[i] for i in random.integers(0, 40, 3000)) + b"\xff\xfe\x00 end\n"
    path.write_bytes(text)
    return path


def write_config(folder: Path, kind: str) -> Path:
    """A run.toml for a small model of this kind, and its data."""
    path = folder / f"{kind}.toml"
    if kind == "gpt":
        path.write_text(GPT.format(text=write_text(folder / "text.txt")))
    else:
        path.write_text(TABLE.format(kind=kind))
    return path


def train(
    mpirun: Mpirun, ranks: int, *arguments: object, **options: object
) -> CompletedProcess[str]:
    """One run of hpcpar.train that must succeed."""
    done = mpirun(ranks, "-m", "hpcpar.train", *map(str, arguments), **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def train_all(
    mpirun: Mpirun, folder: Path, runs: Mapping[str, tuple[int, Sequence[object]]]
) -> dict:
    """Trainings in one launch, name -> ranks, arguments; what was said by name, as if of a launch.

    The folder of each is `folder`/name.
    """
    file = folder / "trainings.json"
    file.write_text(
        json.dumps(
            [
                [ranks, *map(str, arguments), "--run.dir", str(folder / name)]
                for name, (ranks, arguments) in runs.items()
            ]
        )
    )
    done = mpirun(max(ranks for ranks, _ in runs.values()), TRAININGS, file, limit=150)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    said = json.loads(file.with_name("trainings.json.said").read_text())
    return {name: CompletedProcess(name, 0, *texts) for name, texts in zip(runs, said, strict=True)}


def train_here(*arguments: object) -> None:
    """One run of hpcpar.train on one rank, which is this process."""
    with Communicator(MPI.COMM_SELF, device="cpu") as comm:
        training_main(list(map(str, arguments)), comm)


def tool_here(*arguments: object) -> str:
    """What `python -m hpcpar ARGUMENTS` prints on one rank, which is this process."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        Communicator(MPI.COMM_SELF, device="cpu") as comm,
    ):
        tools_main(list(map(str, arguments)), comm)
    return out.getvalue()


def sha256(done: CompletedProcess[str]) -> str:
    """The hash in the last line of a run's output."""
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("weights sha256 "), done.stdout + done.stderr
    return last.split()[-1]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
