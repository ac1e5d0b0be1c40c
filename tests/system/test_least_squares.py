"""The worked example: one hash for data-parallel, model-parallel and both, on any rank count."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "least_squares.py"


def test_one_hash_for_every_partition(mpirun):
    hashes = {}
    for ranks, partition in ((1, "rows"), (2, "rows"), (2, "columns"), (3, "columns"), (4, "both")):
        done = mpirun(ranks, EXAMPLE, "--partition", partition, limit=30)
        assert done.returncode == 0, done.stderr
        losses = [float(text) for text in re.findall(r"loss (\S+)", done.stdout)]
        assert len(losses) == 30 and losses[-1] < losses[0] / 20
        hashes[ranks, partition] = done.stdout.splitlines()[-1], tuple(losses)
    assert len(set(hashes.values())) == 1, hashes
    assert re.fullmatch(r"weights sha256 [0-9a-f]{64}", hashes[1, "rows"][0])
