"""Reading files and flags."""

from pathlib import Path

import pytest

from hpcpar.config import Config, given_keys, parse
from hpcpar.errors import UserError
from hpcpar.threads import rank_threads


def test_defaults_need_nothing():
    config = parse([])
    assert config.model == Config().model
    assert config.threads >= 1


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'steps = 7\n[optim]\nlr = 0.5\nbetas = [0.8, 0.9]\n[data]\npaths = ["a", "b"]\n'
    )
    config = parse([str(path), "--optim.lr", "0.25", "--data.paths", "c d.txt", "e"])
    assert (config.steps, config.optim.lr, config.optim.betas) == (7, 0.25, (0.8, 0.9))
    assert config.data.paths == [str(Path.cwd() / "c d.txt"), str(Path.cwd() / "e")]


@pytest.mark.parametrize(
    ("words", "betas"),
    [(["0.8", "0.99"], (0.8, 0.99)), (["0.8,0.99"], (0.8, 0.99)), (["[0.8, 0.99]"], (0.8, 0.99))],
)
def test_lists_in_any_form(words, betas):
    assert parse(["--optim.betas", *words]).optim.betas == betas


def test_paths_that_look_like_numbers_stay_names():
    assert [Path(p).name for p in parse(["--data.paths", "2024", "1e3"]).data.paths] == [
        "2024",
        "1e3",
    ]
    assert Path(parse(["--data.paths=a"]).data.paths[0]).name == "a"
    assert parse(["--data.paths", "sklearn:iris"]).data.paths == ["sklearn:iris"]


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "1.5"], ["--steps"], ["--batch.size", "0"], ["--optim.lr", "-1"],
     ["--timeout", "0"],
     ["--precision", "int8"], ["--optim.betas", "0.9"], ["run.toml"], ["--model.heads", "0"],
     ["--model.vocabulary=-1"],
     ["--optim.betas", "1,1"], ["--optim.clip=-1"], ["--threads", "9" * 25],
     ["--batch.size", "10", "--batch.micro", "4"],
     ["--nonsense", "1"],
     ["--run.resume", "2"], ["stray", "--steps", "3"], ["--steps", "3", "stray"]],
)  # fmt: skip
def test_mistakes_are_one_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        parse(arguments)
    text = str(error.value)
    assert "\n" not in text and "<class" not in text and 10 < len(text) < 200


@pytest.mark.parametrize(
    ("environ", "threads"),
    [({}, 1), ({"OMP_NUM_THREADS": "4"}, 4), ({"SLURM_CPUS_PER_TASK": "3"}, 3),
     ({"OMP_NUM_THREADS": "2,1", "SLURM_CPUS_PER_TASK": "3"}, 2), ({"OMP_NUM_THREADS": "x"}, 1)],
)  # fmt: skip
def test_threads_of_a_rank(environ, threads):
    assert rank_threads(0, environ) == threads
    assert rank_threads(7, environ) == 7


def test_a_plan_chooses_the_axes(tmp_path):
    config = parse(["--parallel.plan", "auto", "--parallel.speeds", "1,1,0.5"])
    assert config.parallel.plan == "auto" and config.parallel.speeds == (1.0, 1.0, 0.5)
    path = tmp_path / "run.toml"
    path.write_text('[parallel]\nplan = "auto"\nzero = 1\npipeline = 1\n')  # as a run has saved it
    assert parse([str(path)]).parallel.plan == "auto"
    for flags in (
        ["--parallel.zero", "1"], ["--parallel.data=2"], ["--parallel.recompute", "true"],
        ["--parallel.tensor", "2"], ["--parallel.context=1"], ["--parallel.schedule", "gpipe"],
    ):  # fmt: skip
        key = flags[0].partition("=")[0]
        with pytest.raises(UserError, match=f"auto chooses the layout: leave {key} out"):
            parse(["--parallel.plan", "auto", *flags])
    tiled = parse(["--parallel.plan", "auto", "--reproducible", "layout", "--parallel.tiles", "2"])
    assert tiled.parallel.tiles == 2


def test_given_keys_are_those_of_the_file_and_of_the_flags(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 3\n[parallel]\nzero = 1\n")
    keys = given_keys([str(path), "--parallel.pipeline=2", "--data.paths", "a", "b"])
    assert keys == {"steps", "parallel.zero", "parallel.pipeline", "data.paths"}
