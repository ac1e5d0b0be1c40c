"""Many commands that must be refused, for the price of one launch."""

import json
from collections.abc import Sequence
from pathlib import Path

from launch import ROOT, start_mpirun

__all__ = ["refusals"]

PROGRAM = ROOT / "tests" / "programs" / "mistakes.py"


def refusals(ranks: int, commands: Sequence[Sequence[object]], folder: Path) -> list[str]:
    """The message of each command, [MODULE, *ARGUMENTS], run in `folder` on so many ranks.

    Raises AssertionError unless each ends with status 2 on all ranks, and with one sentence, which
    is rank 0's.
    """
    file = folder / "commands.json"
    file.write_text(json.dumps([[str(word) for word in command] for command in commands]))
    done = start_mpirun(ranks, str(PROGRAM), str(file), limit=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    ends = [json.loads(Path(f"{file}.{rank}").read_text()) for rank in range(ranks)]
    return [_sentence(of_ranks) for of_ranks in zip(*ends, strict=True)]


def _sentence(ends: Sequence[dict]) -> str:
    """What the ranks said of one command."""
    texts = [end["stdout"] + end["stderr"] for end in ends]
    assert {end["status"] for end in ends} == {2} and "Traceback" not in "".join(texts), ends
    said = [line for line in "\n".join(texts).splitlines() if line.startswith("hpcpar: ")]
    said = [line for line in said if not line.startswith("hpcpar: note:")]
    assert len(said) == 1 and said[0] in texts[0], ends
    return said[0]
