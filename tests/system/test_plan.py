"""python -m hpcpar plan, and a run that takes what it finds."""

import pytest
from mistakes import refusals
from training import sha256, summary, tool_here, train, write_config

GPT = (
    "--model.layers", 8, "--model.width", 256, "--model.heads", 4, "--model.context", 256,
    "--model.vocabulary", 5000, "--batch.size", 64, "--batch.micro", 1, "--batch.leaves", 16,
)  # fmt: skip
ELSEWHERE = ("--flops", "150T", "--bandwidth", "25GB", "--latency", "5e-6")


def rows(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("data ")]


def test_another_machine_is_planned_on_one_rank():
    done = tool_here("plan", "--ranks", 16, "--memory", "80GB", "--top", 4, *ELSEWHERE, *GPT)
    assert len(rows(done)) == 4
    for words in ("16 ranks", "1.5e+14 flop/s (given)", "bandwidth 25 GB/s: given", "tokens/s"):
        assert words in done
    kept = tool_here(
        "plan", "--ranks", 16, *ELSEWHERE, *GPT, "--parallel.pipeline", 4, "--parallel.zero", 1
    )
    assert rows(kept)
    assert all("data 4 x pipeline 4" in row and "zero 1" in row for row in rows(kept))


def test_layers_are_shared_where_it_is_allowed():
    keys = *ELSEWHERE, "--latency", 0, *GPT, "--reproducible", "layout", "--model.layers", 2
    done = tool_here("plan", "--ranks", 4, *keys, "--top", 200)
    found = rows(done)
    for words in (
        "x tensor 4, sequence",
        "data 2 x pipeline 1 x tensor 2",
        "x pipeline 2 x tensor",
    ):
        assert any(words in row for row in found), words
    kept = tool_here("plan", "--ranks", 4, *keys, "--parallel.tensor", 2, "--parallel.context", 2)
    assert all("context 2 x tensor 2" in row for row in rows(kept)), kept
    less = tool_here("plan", "--ranks", 4, *keys[:-4], "--memory", "50MB", "--model.layers", 2)
    assert "the bits are those of so many" in less and "x tensor" in rows(less)[0]


def test_this_machine_is_measured_on_all_its_ranks(mpirun, tmp_path):
    config = write_config(tmp_path, "gpt")
    done = mpirun(2, "-m", "hpcpar", "plan", config, "--speeds", "1,0.5", limit=50)
    assert done.returncode == 0, done.stderr
    assert "measured (2 ranks here)" in done.stdout
    assert "2 ranks" in done.stdout and rows(done.stdout)


MISTAKES = [
    (["--ranks", 16, "--memory", "1MB"], ["no layout fits into 1.0 MB", "are missing for"]),
    (["--ranks", 4, "--speeds", "1,2"], ["speeds has 2 numbers for 4 ranks"]),
    (["--ranks", 7, "--parallel.pipeline", 2], ["no layout of 7 ranks", "leave some out"]),
    (["--memory", "much"], ["--memory takes bytes", "'much'"]),
    (["--flops", "fast"], ["--flops takes a number", "'fast'"]),
    (["--model.widht", 3], ["model.widht", "did you mean model.width?"]),
    (["--ranks", 8, "--parallel.tensor", 8], ["--parallel.tensor 8", "take at most 4 ranks"]),
]


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    commands = [["hpcpar", "plan", *ELSEWHERE, *GPT, *words] for words, _ in MISTAKES]
    return refusals(1, commands, tmp_path_factory.mktemp("mistakes"))


@pytest.mark.parametrize(
    "number", range(len(MISTAKES)), ids=lambda n: " ".join(map(str, MISTAKES[n][0][-2:]))
)
def test_mistakes(messages, number):
    assert all(word in messages[number] for word in MISTAKES[number][1]), messages[number]


def test_a_run_takes_the_plan_and_has_the_same_hash(mpirun, tmp_path):
    config = write_config(tmp_path, "gpt")
    planned = train(
        mpirun, 2, config, "--steps", 3, "--run.dir", tmp_path / "a", "--parallel.plan", "auto"
    )
    asked = train(mpirun, 1, config, "--steps", 3, "--run.dir", tmp_path / "b")
    assert sha256(planned) == sha256(asked)
    told = [line for line in planned.stderr.splitlines() if "plan: data" in line]
    assert len(told) == 1 and "s a step" in told[0] and "predicted" in told[0]
    layout = summary(tmp_path / "a")["layout"]
    assert f"data {layout['data']} x pipeline {layout['pipeline']}" in told[0]
