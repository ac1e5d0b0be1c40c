"""One clear sentence from rank 0, exit status 2, and nothing half-written."""

import os
import shutil

import numpy as np
import pytest
from mistakes import refusals
from training import train, train_here, write_config, write_text

RANKS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_config(folder, "gpt")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "short.txt").write_bytes(b"too short")
    (folder / "file").write_text("a file")
    (folder / "used").mkdir()
    (folder / "used" / "thing").write_text("something")
    (folder / "hole.csv").write_text("a,b,y\n1,2,0\n3,,1\n4,5,1\n")
    (folder / "tokens.bin").write_bytes((np.arange(400) % 50).astype("<u2").tobytes())
    (folder / "colours.csv").write_text("size,colour,y\n1,2,0\n3,red,1\n4,5,1\n")
    np.savez(folder / "narrow.npz", x=np.ones((90, 1)), y=np.arange(90) % 2)
    (folder / "broken.toml").write_text("steps = = 3\n")
    (folder / "typo.toml").write_text("[optim]\nlearning = 3\n")
    return folder


def refuse(mpirun, place, *arguments, env=None, ranks=RANKS):
    """The message of a run that must be refused; it is one, and nothing is left behind."""
    run = place / "refused"
    arguments = [str(argument).replace("@", str(place) + os.sep) for argument in arguments]
    if "--run.dir" not in arguments:
        arguments += ["--run.dir", str(run)]
    done = mpirun(ranks, "-m", "hpcpar.train", *arguments, limit=30, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line.startswith("hpcpar: ") and "hpcpar: note:" not in line
    ]
    assert len(said) == 1, done.stdout + done.stderr
    assert not run.exists()
    return said[0]


TABLE = ["--model.kind", "linear", "--data.kind", "table", "--data.paths"]
MISTAKES = [
    (["--optim.lrr", "1"], ["optim.lrr", "did you mean optim.lr?"]),
    (["@typo.toml"], ["optim.learning", "typo.toml"]),
    (["@broken.toml"], ["broken.toml", "not TOML"]),
    (["@absent.toml"], ["absent.toml", "No such file"]),
    (["--steps", "many"], ["--steps", "a whole number", "many"]),
    (["--optim.name", "adam"], ["--optim.name", "adamw", "adam"]),
    (["--steps", "0"], ["--steps", "at least 1"]),
    (["--run.resume", "maybe"], ["--run.resume", "maybe"]),
    (
        ["@gpt.toml", "--batch.size", "10", "--batch.micro", "4"],
        ["multiple", "--batch.micro 4"],
    ),
    (["@gpt.toml", "--model.heads", "3"], ["--model.heads 3", "--model.width 16"]),
    (["@gpt.toml", "--model.vocabulary", "9"], ["--model.vocabulary", "9"]),
    (["@gpt.toml", "--data.paths", "@nothing.txt"], ["nothing.txt"]),
    (["@gpt.toml", "--data.paths", "@empty.txt"], ["empty"]),
    (["@gpt.toml", "--data.paths", "@short.txt"], ["short"]),
    (
        ["@gpt.toml", "--data.kind", "table", "--data.paths", "@hole.csv"],
        ["hole.csv", "row", "column"],
    ),
    (
        ["@gpt.toml", "--data.kind", "table", "--data.paths", "sklearn:iris"],
        ["--model.kind gpt"],
    ),
    (["@gpt.toml", "--model.kind", "mlp"], ["--model.kind mlp", "table"]),
    (
        ["--data.kind", "table", "--data.paths", "sklearn:iris", "--data.documents", "true"],
        ["--data.documents is for text"],
    ),
    (
        ["--data.kind=tokens", "--data.paths=@tokens.bin", "--data.documents=true"],
        ["--data.separator 50256", "outside of the vocabulary"],
    ),
    (["@gpt.toml", "--data.balance", "true"], ["--data.balance", "--data.documents true"]),
    (
        ["--data.kind=table", "--data.paths=sklearn:diabetes", "--data.stratify=true"],
        ["--data.stratify is for classes", "sklearn:diabetes"],
    ),
    (
        [*TABLE, "@colours.csv"],
        ["colours.csv, row 3, column 2 (colour): the value is 'red'"],
    ),
    (["@gpt.toml", "--data.partition", "feature"], ["--data.partition feature", "mlp or linear"]),
    (
        ["@gpt.toml", "--data.partition", "feature", "--model.kind", "mlp"],
        ["--data.partition feature", "--data.kind bytes has none"],
    ),
    (
        [*TABLE, "@narrow.npz", "--data.partition", "feature"],
        ["2 ranks share 1 feature of a table"],
    ),
    (
        [*TABLE, "@narrow.npz", "--data.partition", "batch", "--batch.size", "60"],
        ["--data.partition batch: 2", "86 samples has 1"],
    ),
    (
        [*TABLE, "@narrow.npz", "--data.partition", "batch", "--parallel.plan", "auto"],
        ["--parallel.plan auto knows --data.partition sample only"],
    ),
    (["@gpt.toml", "--run.dir", "@file"], ["file", "used"]),
    (["@gpt.toml", "--run.dir", "@file/below"], ["file", "cannot be"]),
    (["@gpt.toml", "--run.dir", "/proc/here"], ["/proc/here", "cannot be written"]),
    (["@gpt.toml", "--run.dir", "@used"], ["used", "--run.resume true"]),
    (["@gpt.toml", "--model.init_from", "@"], ["config.json"]),
    (["@gpt.toml", "--parallel.pipeline", "3"], ["pipeline 3", "take at least 3 ranks"]),
    (["@gpt.toml", "--parallel.data", "4"], ["data 4", "take 4 ranks, or --parallel.data -1"]),
    (
        [
            "@gpt.toml",
            "--parallel.pipeline=2",
            "--parallel.schedule=interleaved",
            "--parallel.chunks=3",
        ],
        ["6 stages", "4 with its first and last"],
    ),
]


@pytest.fixture(scope="module")
def messages(place):
    """What is said of each of the mistakes; nothing is left behind."""
    commands = []
    for arguments, _ in MISTAKES:
        words = [argument.replace("@", str(place) + os.sep) for argument in arguments]
        where = [] if "--run.dir" in words else ["--run.dir", place / "refused"]
        commands.append(["hpcpar.train", *words, *where])
    said = refusals(RANKS, commands, place)
    assert not (place / "refused").exists()
    return said


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][0]))
def test_refused(messages, number):
    for word in MISTAKES[number][1]:
        assert word in messages[number]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
def test_no_gpu(mpirun, place):
    assert "--device cpu" in refuse(mpirun, place, "@gpt.toml", "--device", "cuda")


def test_bytes_that_are_not_utf8_are_fine(mpirun, tmp_path):
    config = write_config(tmp_path, "gpt")
    noise = tmp_path / "noise"
    noise.write_bytes(np.random.default_rng(0).bytes(4000))
    train(mpirun, 2, config, "--data.paths", noise, "--steps", 1, "--run.dir", tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train_here(write_config(folder, "gpt"), "--steps", 2, "--run.dir", folder / "run")
    return folder


OTHER_RUNS = [
    ["--model.layers", "3"],
    ["--batch.size", "12"],
    ["--batch.leaves", "5"],
    ["--threads", "2"],
    ["--seed", "9"],
    ["--optim.name", "sgd"],
]
NO_RESUMES = [
    (["--steps", "1"], ["2 steps", "--steps"]),
    (["--run.dir", "@used"], ["config.toml"]),
]


@pytest.fixture(scope="module")
def resumes(place, finished):
    """What is said of resumes that cannot be; nothing in the run is touched."""
    run, commands = finished / "run", []
    for arguments in [*OTHER_RUNS, *(arguments for arguments, _ in NO_RESUMES)]:
        words = [argument.replace("@", str(place) + os.sep) for argument in arguments]
        where = [] if "--run.dir" in words else ["--run.dir", run]
        commands.append(["hpcpar.train", "--run.resume", "true", *where, *words])
    other = finished / "other"
    other.mkdir()
    train_here(write_config(other, "gpt"), "--steps", 2, "--run.dir", other / "run")
    text = other / "text.txt"
    text.write_bytes(text.read_bytes().swapcase())
    resume = ["hpcpar.train", "--run.resume", "true", "--run.dir"]
    commands.append([*resume, other / "run", "--steps", "4"])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    said = refusals(RANKS, commands, place)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    return said


@pytest.mark.parametrize("number", range(len(OTHER_RUNS)), ids=lambda n: OTHER_RUNS[n][0])
def test_a_resume_that_would_be_another_run(resumes, number):
    assert OTHER_RUNS[number][0].lstrip("-") in resumes[number]
    assert "bits" in resumes[number] or "model" in resumes[number]


@pytest.mark.parametrize("number", range(len(NO_RESUMES)), ids=["fewer steps", "no run"])
def test_a_resume_of_nothing_that_fits(resumes, number):
    message = resumes[len(OTHER_RUNS) + number]
    assert all(word in message for word in NO_RESUMES[number][1]), message


def test_a_resume_on_other_data(resumes):
    assert "data" in resumes[-1] and "changed" in resumes[-1]


def test_weights_that_are_no_numbers_are_never_saved(mpirun, tmp_path):
    config, run = write_config(tmp_path, "gpt"), tmp_path / "run"
    arguments = [str(config), "--steps", "1", "--optim.lr", "1e40", "--run.dir", str(run)]
    done = mpirun(2, "-m", "hpcpar.train", *arguments)
    assert done.returncode == 2 and "lower --optim.lr" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list((run / "checkpoints").glob("step-*"))


def test_all_checkpoints_damaged(mpirun, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    for path in run.rglob("part-0000.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    done = mpirun(2, "-m", "hpcpar.train", "--run.dir", run, "--run.resume", "true", "--steps", "4")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "part-0000.safetensors" in done.stderr and "damaged" in done.stderr


def test_srun_that_started_single_worlds(place):
    """Four processes that each believe to be alone: refuse, instead of training four times."""
    import subprocess
    import sys

    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "PMIX_", "PRTE_"))
    }
    environ |= {"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcpar.train", str(place / "gpt.toml")],
        env=environ, capture_output=True, text=True, timeout=30, cwd=place, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "srun" in done.stderr and "--mpi=pmix" in done.stderr and "Traceback" not in done.stderr


def test_help_is_printed_once(mpirun):
    done = mpirun(3, "-m", "hpcpar.train", "--help")
    assert done.returncode == 0
    assert done.stdout.count("--batch.size") == 1 + done.stdout.count("[--batch.size")


def test_write_text_is_not_utf8(tmp_path):
    with pytest.raises(UnicodeDecodeError):
        write_text(tmp_path / "t").read_text("utf-8")
