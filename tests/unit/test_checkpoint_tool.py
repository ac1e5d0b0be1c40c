"""python -m hpcpar checkpoint verify | list | prune"""

import json
import shutil

import pytest
from checkpoints import save

from hpcpar.checkpoint.places import MANIFEST, part_name
from hpcpar.comm import Communicator
from hpcpar.errors import UserError
from hpcpar.tools import main


@pytest.fixture
def tool(capsys):
    """Run the tool on one rank; exit status and output."""

    def run(*arguments):
        with Communicator(device="cpu") as comm:
            try:
                main(["checkpoint", *map(str, arguments)], comm)
                status = 0
            except SystemExit as error:
                status = error.code
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 1 to 3, of which the last one is damaged, but not in size."""
    for step in (1, 2, 3):
        place = save(tmp_path / "checkpoints", step, keep=9)
    victim = place / part_name(1)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 4
    victim.write_bytes(content)
    return tmp_path


def left(run):
    return sorted(path.name[-1] for path in (run / "checkpoints").iterdir())


def test_verify_names_the_damaged_file(run, tool):
    for path in (run, run / "checkpoints"):
        status, said = tool("verify", path)
        assert status == 1
        assert f"step-00000003/{part_name(1)} is damaged: its checksum is wrong" in said
        assert said.count("is whole") == 2
    shutil.rmtree(run / "checkpoints" / "step-00000003")
    assert tool("verify", run)[0] == 0


def test_list_tells_what_there_is(run, tool):
    (run / "checkpoints" / "step-00000001" / part_name(0)).unlink()
    manifest = run / "checkpoints" / "step-00000002" / MANIFEST
    manifest.write_text(json.dumps({"format": 1}))
    status, said = tool("list", run)
    assert status == 0
    rows = [line.split() for line in said.splitlines()]
    assert rows[0] == ["step", "written", "(UTC)", "size", "ranks", "state"]
    assert rows[1][:3] == ["1", "2031-12-24", "18:00:00"] and rows[1][-2:] == ["2", "damaged"]
    assert rows[2] == ["2", *["damaged,", "or", "of", "another", "version"]]
    assert rows[3][-2:] == ["2", "whole"], "a quick look does not see it"


@pytest.mark.parametrize(("keep", "stay"), [(1, "23"), (2, "123"), (9, "123")])
def test_prune_counts_only_those_that_are_whole(run, tool, keep, stay):
    status, said = tool("prune", run, "--keep", keep)
    assert status == 0 and left(run) == list(stay)
    assert said.count("removed: ") == 3 - len(stay)
    assert said.endswith(f"{len(stay)} checkpoints are left\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "{run}/nowhere"], "nowhere is not the folder of a run with checkpoints"),
        (["prune", "{run}", "--keep", "0"], "--keep is 0; it must be at least 1"),
        (["mend", "{run}"], "takes verify, list or prune, not mend"),
        (["list"], "required"),
    ],
    ids=["no run", "keep none", "no such action", "no run named"],
)
def test_mistakes(run, tool, arguments, words):
    with pytest.raises(UserError, match=words):
        tool(*(word.format(run=run) for word in arguments))
    assert left(run) == list("123")
