"""A run with a rank that computes wrongly; and runs that are computed again."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mpi4py import MPI
from training import sha256, train, write_config

from hpcpar import checkpoint
from hpcpar.checkpoint.places import MANIFEST, part_name
from hpcpar.comm import Communicator
from hpcpar.errors import UserError
from hpcpar.tools import main

FLIPPED = Path(__file__).parents[1] / "programs" / "flipped.py"


def test_a_wrong_bit_names_its_rank(mpirun, tmp_path):
    config, folder = write_config(tmp_path, "gpt"), tmp_path / "run"
    done = mpirun(3, FLIPPED, 1, config, "--audit", 2, "--run.dir", folder)
    assert done.returncode == 3, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("hpcpar:")]
    assert len(said) == 1 and "Traceback" not in done.stderr
    assert said[0].startswith("hpcpar: wrong bits: rank 1 (on ") and "a lasting fault" in said[0]
    assert "transformer.h.0" in said[0], "the layer"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with audits on two ranks, with checkpoints after 4, 8 and 10."""
    from launch import start_mpirun

    folder = tmp_path_factory.mktemp("audited")
    done = train(
        start_mpirun, 2, write_config(folder, "gpt"), "--audit", 2, "--steps", 10,
        "--checkpoint.every", 4, "--checkpoint.keep", 3, "--run.dir", folder / "run",
    )  # fmt: skip
    assert done.stderr == ""
    return folder / "run", sha256(done)


def replay(*arguments: object) -> int:
    """The exit status, in this process."""
    with Communicator(MPI.COMM_SELF, device="cpu") as comm:
        try:
            main(["replay", *map(str, arguments)], comm)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_the_same_again(run, capsys):
    """On one rank, without audits: the checkpoint before gives the next one, and the final hash."""
    folder, final = run
    assert replay(folder) == 0
    said = capsys.readouterr().out
    assert f"weights sha256 {final}" in said and "steps 9 to 10" in said
    assert said.count(": the same") == 3 and "DIFFERENT" not in said
    assert replay(folder, "--step", 7) == 0
    said = capsys.readouterr().out
    assert "steps 5 to 7" in said and said.count(": the same") == 1 and "nothing is left" in said
    assert replay(folder, "--step", 4, "--start", 0) == 0
    assert "checkpoint step-00000004" in capsys.readouterr().out


def flip_weight(place: Path, name: str) -> None:
    """Change a bit of a tensor in a checkpoint, and make its checksums right again."""
    manifest = checkpoint.read_manifest(place)
    number, at, _ = manifest.tensors[name][0]
    path, files = place / part_name(number), list(manifest.files)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")  # of the weights, in safetensors
    content[start + 4 * at] ^= 1
    path.write_bytes(content)
    files[number] = replace(files[number], sha256=hashlib.sha256(content).hexdigest())
    (place / MANIFEST).write_text(replace(manifest, files=tuple(files)).to_text())


def test_a_checkpoint_that_was_changed(run, tmp_path, capsys):
    """With checksums that are right again: only computing finds it."""
    copy = shutil.copytree(run[0], tmp_path / "copy")
    name = "transformer.h.1.mlp.c_fc.weight"
    flip_weight(checkpoint.list_checkpoints(copy / "checkpoints")[1], name)
    assert replay(copy, "--step", 8) == 1
    said = capsys.readouterr().out
    assert f"DIFFERENT: {name}\n" in said and said.count("DIFFERENT") == 1
    assert replay(copy) == 1, "and what is computed from it is something else"
    assert "summary.json: DIFFERENT: weights" in capsys.readouterr().out


def test_mistakes(run, tmp_path):
    folder, _ = run
    cases = [
        ((tmp_path / "nowhere",), "no config.toml"),
        ((folder, "--step", 4), "no checkpoint before step 4: it has those of steps 4, 8, 10"),
        ((folder, "--step", 11), "a run of steps 1 to 10"),
        ((folder, "--step", 9, "--start", 5), "no checkpoint of step 5"),
    ]
    for arguments, words in cases:
        with pytest.raises(UserError, match=words):
            replay(*arguments)
    copy = shutil.copytree(folder, tmp_path / "copy")
    for place in checkpoint.list_checkpoints(copy / "checkpoints"):
        manifest = checkpoint.read_manifest(place)
        other = replace(manifest, facts=replace(manifest.facts, data="another"))
        (place / MANIFEST).write_text(other.to_text())
    with pytest.raises(UserError, match=r"data of the run in .* has changed"):
        replay(copy)
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace('"ranks"', '"off"'))
    with pytest.raises(UserError, match="--reproducible off"):
        replay(copy)
