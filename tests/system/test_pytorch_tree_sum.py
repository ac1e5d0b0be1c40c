"""PyTorch with TreeSum: the example trains the same weights on any number of ranks."""

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "pytorch_tree_sum.py"

SIZES = (2, 3, 5, 8)
# The example on the first so many of the ranks, for the price of one start.
ON_PARTS = f"""
import sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
import pytorch_tree_sum as example
import hpcpar

with hpcpar.Communicator(device="cpu") as everybody:
    for size in {SIZES}:
        part = everybody.split(0 if everybody.rank < size else None)
        if part is not None:
            with part:
                model = example.gpt2(layers=2, heads=4, width=128, context=128)
                losses = example.train(part, model, leaves=10, per_leaf=1, micro=1)
                first, second = next(losses), next(losses)
                if part.rank == 0:
                    print(size, first, second, example.weights_hash(model), flush=True)
        everybody.barrier()
"""


def test_one_hash_on_any_number_of_ranks(mpirun):
    work = ["--steps", "2", "--leaves", "10", "--micro", "1"]
    alone = mpirun(1, EXAMPLE, *work, limit=60)
    assert alone.returncode == 0, alone.stderr
    expected = re.fullmatch(
        r"step 1  loss (\d\.\d+)\nstep 2  loss (\d\.\d+)\nweights sha256 ([0-9a-f]{64})\n",
        alone.stdout,
    )
    assert expected, alone.stdout
    first, second, sha256 = expected.groups()
    assert 4 < float(second) < float(first) < 6  # ln 256 is 5.5

    parts = mpirun(max(SIZES), "-c", ON_PARTS, limit=150)
    assert parts.returncode == 0, parts.stderr
    found = re.findall(r"(\d) ([\d.]+) ([\d.]+) (\w+)", parts.stdout)
    assert [int(size) for size, *_ in found] == list(SIZES)
    for size, one, two, sha in found:
        assert (f"{float(one):.6f}", f"{float(two):.6f}", sha) == (first, second, sha256), size
