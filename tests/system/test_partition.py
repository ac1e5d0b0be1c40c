"""Training by batch and by feature, from the command line to the folder of the run."""

import json

import pytest
from launch import start_mpirun
from training import metrics, sha256, summary, train_all, write_config

pytestmark = pytest.mark.timeout(240)  # a launch of many trainings has 150 s
LAYOUT = ("--reproducible", "layout")
FEATURE = ("--data.partition", "feature")
BATCH = ("--data.partition", "batch")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trainings in one launch: their folder, and what each has said."""
    folder = tmp_path_factory.mktemp("partition")
    table, gpt = write_config(folder, "mlp"), write_config(folder, "gpt")
    wanted = {
        "sample": (1, [table, *LAYOUT]),
        "feature1": (1, [table, *LAYOUT, *FEATURE]),
        "feature3": (3, [table, *LAYOUT, *FEATURE]),
        "feature2x2": (4, [table, *LAYOUT, *FEATURE, "--parallel.data", 2]),
        "cut": (3, [table, *FEATURE]),
        "batch1": (1, [gpt, *BATCH]),
        "batch3": (3, [gpt, *BATCH]),
        "gpt": (2, [gpt]),
    }
    several = {name: (ranks, [*words, "--steps", 4]) for name, (ranks, words) in wanted.items()}
    return folder, train_all(start_mpirun, folder, several)


def test_by_feature_one_hash_under_layout(runs):
    """Also that of one rank by sample: the layers of this MLP are cut in the same way."""
    folder, said = runs
    names = ("sample", "feature1", "feature3", "feature2x2")
    assert len({sha256(said[name]) for name in names}) == 1
    told = [summary(folder / name)["layout"] for name in names]
    axes = [(layout["data"], layout["tensor"]) for layout in told]
    assert axes == [(1, 1), (1, 1), (1, 3), (2, 2)]
    assert [layout.get("partition") for layout in told] == [None, *["feature"] * 3]
    losses, cut = ([row["loss"] for row in metrics(folder / name)] for name in ("sample", "cut"))
    assert cut == pytest.approx(losses, rel=1e-5)
    assert "tensor 3 the bits are those of so many" in said["cut"].stderr


def test_by_batch_a_step_is_as_many_batches_as_ranks(runs):
    folder, said = runs
    assert sha256(said["batch1"]) == sha256(said["gpt"])
    assert sha256(said["batch3"]) != sha256(said["gpt"])
    note = "24 samples for each data-parallel rank: the weights' hash is that of 3 of them"
    assert note in said["batch3"].stderr
    tokens = [row["tokens_per_second"] * row["seconds"] for row in metrics(folder / "batch3")]
    assert tokens == pytest.approx([3 * 24 * 16] * 4)
    for name, batches in ("gpt", 4), ("batch3", 12):
        (manifest,) = (folder / name / "checkpoints").glob("*/manifest.json")
        assert json.loads(manifest.read_text())["sampler"] == [0, 24 * batches]
