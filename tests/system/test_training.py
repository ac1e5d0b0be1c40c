"""One hash on any number of ranks; a run's folder; resume."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from launch import start_mpirun
from long import LONG
from training import metrics, sha256, summary, train, train_all, write_config

RANKS = (1, 2, 3, 4, 5, 7, 8)
FEW = RANKS if LONG else (1, 5, 8)  # tests/mpi/test_layouts.py has these models on the others
KINDS = {"gpt": RANKS, "mlp": FEW, "linear": FEW}
ORDERS = ("ranks", "off")
SEEDS = (1, 2)
ZERO = ("--parallel.zero", 3)
VICTIM = Path("checkpoints") / "step-00000020" / "part-0001.safetensors"


@pytest.fixture(scope="module")
def short_runs(tmp_path_factory):
    """Trainings in one launch: their folder, and what each has said."""
    folder = tmp_path_factory.mktemp("short")
    configs = {kind: write_config(folder, kind) for kind in KINDS}
    runs = {
        f"{kind}{ranks}": (ranks, [configs[kind], "--steps", 20, "--seed", 7])
        for kind, counts in KINDS.items()
        for ranks in counts
    }
    for order in ORDERS:
        runs[order] = 3, [configs["gpt"], "--steps", 6, "--reproducible", order]
    for seed in SEEDS:
        runs[f"seed{seed}"] = 2, [configs["linear"], "--steps", 2, "--seed", seed]
    runs["idle"] = 5, [configs["linear"], "--batch.leaves", 3, "--steps", 1]
    return folder, train_all(start_mpirun, folder, runs)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
def test_one_hash_on_any_number_of_ranks(short_runs, kind):
    folder, said = short_runs
    names = [f"{kind}{ranks}" for ranks in KINDS[kind]]
    hashes = {name: sha256(said[name]) for name in names}
    keys = ("step", "loss", "gradient_norm", "learning_rate", "validation_loss")
    first, *others = (
        [{key: row.get(key) for key in keys} for row in metrics(folder / name)] for name in names
    )
    assert len(set(hashes.values())) == 1, hashes
    assert others and all(curve == first for curve in others)
    assert len(first) == 20 and first[-1]["loss"] < first[0]["loss"], "the model learns"
    assert [summary(folder / name)["layout"]["ranks"] for name in names] == list(KINDS[kind])


def test_any_order_of_sums_is_as_good_but_has_bits_of_its_own(short_runs):
    folder, _ = short_runs
    losses = {order: [row["loss"] for row in metrics(folder / order)] for order in ORDERS}
    assert losses["off"] != losses["ranks"]
    assert losses["off"] == pytest.approx(losses["ranks"], rel=1e-5)


def test_ranks_without_work_are_told(short_runs):
    said = short_runs[1]["idle"].stderr
    assert said == "hpcpar: note: 2 ranks have no leaf of the batch to compute\n", repr(said)


def test_another_seed_is_another_run(short_runs):
    _, said = short_runs
    assert len({sha256(said[f"seed{seed}"]) for seed in SEEDS}) == len(SEEDS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 20 steps on two ranks, with checkpoints after 8, 16 and 20."""
    folder = tmp_path_factory.mktemp("straight")
    config = write_config(folder, "gpt")
    run = folder / "run"
    done = train(start_mpirun, 2, config, "--steps", 20, "--checkpoint.every", 8,
                 "--checkpoint.keep", 3, "--run.dir", run)  # fmt: skip
    return config, run, done


def test_the_folder_of_a_run(straight):
    _, run, done = straight
    assert {path.name for path in run.iterdir()} == {
        "config.toml", "metrics.jsonl", "events.jsonl", "ranks.json", "checkpoints", "loss.svg",
        "summary.json",
    }  # fmt: skip
    saved = tomllib.loads((run / "config.toml").read_text())
    assert saved["steps"] == 20 and saved["model"]["width"] == 16 and saved["threads"] == 1
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert all({"loss", "tokens_per_second", "seconds"} <= row.keys() for row in rows)
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20]
    told = summary(run)
    assert told["steps"] == 20 and told["weights_sha256"] == sha256(done)
    assert told["validation_loss"] == rows[-1]["validation_loss"]
    assert told["layout"]["ranks"] == 2 and "blas" in told["fingerprint"]
    assert (run / "loss.svg").read_text().lstrip().startswith("<?xml")
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000016", "step-00000020"]
    assert done.stderr == "", "no noise"


RESUMED = {
    "resumed1": (1, ()),
    "resumed5": (5, ("--parallel.zero", 2)),
    "resumed8": (8, ("--parallel.pipeline", 4, "--parallel.schedule", "zero-bubble")),
}


@pytest.fixture(scope="module")
def later(straight, tmp_path_factory):
    """What is made of copies of that run, in one launch: their folder, and what each said."""
    config, run, _ = straight
    folder = tmp_path_factory.mktemp("later")
    for name in (*RESUMED, "damaged", "complete", "prolonged"):
        shutil.copytree(run, folder / name)
    for name in RESUMED:  # as if it had been killed after step 8
        (folder / name / "summary.json").unlink()
        for step in (16, 20):
            shutil.rmtree(folder / name / "checkpoints" / f"step-{step:08d}")
    victim = folder / "damaged" / VICTIM
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)

    resume = ("--run.resume", "true")
    interleaved = ("--parallel.pipeline", 2, "--parallel.schedule", "interleaved")
    runs = {name: (ranks, [*resume, *layout]) for name, (ranks, layout) in RESUMED.items()}
    runs |= {
        "again": (3, [run / "config.toml"]),
        "traced": (4, [config, "--steps", 20, "--run.trace", 2, *interleaved, *ZERO]),
        "damaged": (2, resume),
        "complete": (1, resume),
        "prolonged": (2, [*resume, "--steps", 22]),
    }
    return folder, train_all(start_mpirun, folder, runs)


def test_the_config_of_a_run_runs_the_same_again(straight, later):
    _, run, done = straight
    assert tomllib.loads((run / "config.toml").read_text())["run"]["dir"] == ""
    assert sha256(later[1]["again"]) == sha256(done)


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_run_it_would_have_been(straight, later, name):
    _, run, done = straight
    folder, said = later
    assert "continuing after step 8" in said[name].stdout
    assert sha256(said[name]) == sha256(done)
    losses = [[(row["step"], row["loss"]) for row in metrics(f)] for f in (run, folder / name)]
    assert losses[0] == losses[1]


def test_another_layout_and_its_timeline(straight, later):
    run = later[0] / "traced"
    assert sha256(later[1]["traced"]) == sha256(straight[2])
    told = summary(run)
    assert told["layout"] == {
        "ranks": 4, "nodes": 1, "data": 2, "pipeline": 2, "tensor": 1, "zero": 3,
        "schedule": "interleaved", "stages": 4,
    }  # fmt: skip
    assert len(told["seconds_of_ranks"]) == 4
    for row in told["seconds_of_ranks"]:
        wall = row.pop("wall")
        assert sum(row.values()) == pytest.approx(wall, rel=0.01)
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    boxes = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in boxes} == {0, 1, 2, 3}
    assert {event["args"]["stage"] for event in boxes if event["args"]} == {0, 1, 2, 3}
    for picture in ("timeline.svg", "timeline_planned.svg"):
        assert "forward" in (run / picture).read_text()


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(straight, later):
    folder, said = later
    assert str(folder / "damaged" / VICTIM) in said["damaged"].stderr
    assert sha256(said["damaged"]) == sha256(straight[2])
    assert metrics(folder / "damaged")[-1]["step"] == 20


def test_a_complete_run_can_be_resumed_and_prolonged(straight, later):
    folder, said = later
    again, longer = said["complete"], said["prolonged"]
    assert sha256(again) == sha256(straight[2])
    assert sha256(longer) != sha256(straight[2])
    assert "--steps (was 20, now 22)" in longer.stderr and again.stderr == ""
    assert metrics(folder / "prolonged")[-1]["step"] == 22
