"""Whole runs on uneven data, and the tool that shows it."""

import numpy as np
import pytest
from launch import start_mpirun
from training import metrics, sha256, tool_here, train_all, write_config

from hpcpar.errors import UserError

pytestmark = pytest.mark.timeout(240)  # a launch of many trainings has 150 s
DOCUMENTS = ("--data.documents", "true", "--data.balance", "true", "--steps", 5)
STRATIFIED = ("--data.stratify", "true", "--steps", 5)
RUNS = {  # ranks, kind, arguments
    "plain": (1, "gpt", ("--steps", 5)),
    "text1": (1, "gpt", DOCUMENTS),
    "text2": (2, "gpt", (*DOCUMENTS, "--parallel.pipeline", 2, "--parallel.recompute", "true")),
    "text3": (3, "gpt", (*DOCUMENTS, "--parallel.zero", 3)),
    "table1": (1, "linear", STRATIFIED),
    "table3": (3, "linear", STRATIFIED),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Files of very different length."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(2)
    for number in range(60):
        size = int(np.ceil(30 * (1 + random.pareto(1.5))))
        (folder / f"{number:02}.txt").write_bytes(random.integers(97, 107, size, "u1").tobytes())
    return folder


@pytest.fixture(scope="module")
def runs(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    configs = {kind: write_config(folder, kind) for kind in ("gpt", "linear")}
    paths = {"gpt": ("--data.paths", texts), "linear": ()}
    commands = {
        name: (ranks, [configs[kind], *paths[kind], "--seed", 7, *arguments])
        for name, (ranks, kind, arguments) in RUNS.items()
    }
    return folder, train_all(start_mpirun, folder, commands)


@pytest.mark.parametrize("names", [("text1", "text2", "text3"), ("table1", "table3")])
def test_one_hash(runs, names):
    folder, said = runs
    assert len({sha256(said[name]) for name in names}) == 1
    keys = ("step", "loss", "gradient_norm", "validation_loss")
    curves = [[[row.get(key) for key in keys] for row in metrics(folder / n)] for n in names]
    assert len(curves[0]) == 5 and all(curve == curves[0] for curve in curves)


def test_documents_are_another_loss(runs):
    _, said = runs
    assert sha256(said["plain"]) != sha256(said["text1"])
    assert "in 60 documents of" in said["text1"].stdout


def rows(said):
    """The cells behind the first of each row of the tool's table."""
    return {line[:34].strip(): line[34:].split() for line in said.splitlines()}


def test_the_tool_shows_documents(texts, tmp_path):
    picture = tmp_path / "skew.svg"
    said = tool_here("skew", texts, "--ranks", 3, "--context", 16, "--out", picture)
    found = rows(said)
    assert found["documents"] == ["60"]
    wasted, packed = found["positions that are padding"]
    assert 5 < float(wasted.rstrip("%")) < 50 and packed == "0"
    before, after = map(float, found["cost of 3 ranks, max/mean"])
    assert after <= 1.02 < before, said
    before, after = map(float, found["cost of micro-batches, max/mean"])
    assert 1 <= after <= before, said
    assert "us s + " in said and "<svg" in picture.read_text()


def test_the_tool_shows_classes(tmp_path):
    table = tmp_path / "sorted.csv"  # as tables of experiments often are
    table.write_text("".join(f"{n},{n // 60}\n" for n in range(180)))
    said = tool_here("skew", table, "--kind", "table", "--ranks", 3, "--out", tmp_path / "skew.png")
    first = next(line.split() for line in said.splitlines() if line.startswith("0 "))
    before, after = (list(map(int, first[at::3])) for at in (1, 3))
    assert before[1:] == [0, 0] and max(after) - min(after) <= 4
    assert (tmp_path / "skew.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent",), "absent"),
        (("{texts}", "--ranks", 0), "--ranks is 0"),
        (("{texts}", "--width", 6), "multiple of 4"),
        (("{texts}", "--out", "skew.pdf"), r"\.svg or \.png"),
        (("{texts}", "--out", "absent/skew.svg"), "no such folder"),
        (("sklearn:diabetes", "--kind", "table", "--out", ""), "are numbers"),
        (("{texts}", "--kind", "words"), "--kind"),
    ],
)
def test_mistakes_of_the_tool(texts, arguments, words):
    with pytest.raises(UserError, match=words):
        tool_here("skew", *(str(word).format(texts=texts) for word in arguments))
