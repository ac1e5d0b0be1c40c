"""evaluate, export and generate, and the way to Hugging Face's GPT-2 and back."""

import json

import numpy as np
import pytest
from mistakes import refusals
from training import tool_here, train, write_config, write_text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from launch import start_mpirun

    folder = tmp_path_factory.mktemp("tools")
    config = write_config(folder, "gpt")
    train(start_mpirun, 2, config, "--steps", 12, "--run.dir", folder / "run")
    return folder / "run"


def loss_of(output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith("loss ")).split()[1]


def test_evaluate_gives_the_same_on_any_number_of_ranks(mpirun, run, tmp_path):
    text = write_text(tmp_path / "held_out.txt")
    alone = tool_here("evaluate", run, "--data", text)
    done = mpirun(3, "-m", "hpcpar", "evaluate", run, "--data", text)
    assert (done.returncode, done.stdout) == (0, alone), done.stdout + done.stderr
    targets = (text.stat().st_size - 1) // 16 * 16
    assert f"targets {targets}" in alone


def test_export_then_evaluate_and_start_from_it(mpirun, run, tmp_path):
    text = write_text(tmp_path / "held_out.txt")
    tool_here("export", run, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["n_layer"], config["n_embd"], config["vocab_size"]) == (2, 16, 256)
    losses = [loss_of(tool_here("evaluate", f, "--data", text)) for f in (run, tmp_path / "hf")]
    assert losses[0] == losses[1]

    settings = ("--model.init_from", tmp_path / "hf", "--data.paths", text, "--optim.lr", 1e-12)
    train(mpirun, 2, *settings, "--steps", 1, "--run.dir", tmp_path / "more")
    again = loss_of(tool_here("evaluate", tmp_path / "more", "--data", text))
    assert float(again) == pytest.approx(float(losses[0]), abs=2e-6)


@pytest.mark.peers
def test_hugging_face_computes_the_same_loss(run, tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    text = write_text(tmp_path / "held_out.txt")
    tool_here("export", run, tmp_path / "hf")
    ours = float(loss_of(tool_here("evaluate", run, "--data", text)))
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    tokens = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int64)
    windows = (len(tokens) - 1) // 16
    inputs = torch.from_numpy(tokens[: windows * 16].reshape(windows, 16))
    targets = torch.from_numpy(tokens[1 : windows * 16 + 1].reshape(windows, 16))
    with torch.no_grad():
        logits = model(inputs).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_generate_continues_the_prompt(run):
    first = tool_here("generate", run, "--prompt", "ab", "--tokens", 30, "--seed", 1)
    assert first.startswith("ab") and len(first) > 20
    assert tool_here("generate", run, "--prompt", "ab", "--tokens", 30, "--seed", 1) == first
    assert tool_here("generate", run, "--prompt", "ab", "--tokens", 30, "--seed", 2) != first


MISTAKES = [
    (["evaluate", "nowhere", "--data", "x"], ["nowhere", "config.toml"]),
    (["evaluate", "{run}"], ["--data"]),
    (["evaluate", "{run}", "--data", "absent.txt"], ["absent.txt"]),
    (["export", "nowhere", "out"], ["nowhere"]),
    (["checkpoint", "verify", "nowhere"], ["nowhere", "checkpoints"]),
    (["generate", "{run}", "--temperature", "hot"], ["temperature", "hot"]),
    (["generate", "{run}", "--prompt", ""], ["--prompt"]),
    (["frobnicate"], ["frobnicate"]),
    ([], ["evaluate", "export", "generate"]),
]


@pytest.fixture(scope="module")
def messages(run, tmp_path_factory):
    commands = [["hpcpar", *(a.format(run=run) for a in words)] for words, _ in MISTAKES]
    return refusals(2, commands, tmp_path_factory.mktemp("mistakes"))


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][0][:2]))
def test_mistakes(messages, number):
    assert all(word in messages[number] for word in MISTAKES[number][1]), messages[number]
