"""Wrong programs: each is caught, and named, on every rank; nothing hangs."""

import json
import re

import pytest
from launch import ROOT, start_mpirun
from programs.wrong import PROGRAMS

FOLDER = ROOT / "tests" / "programs"


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each rank said of each program: three launches for all of them."""
    folder = tmp_path_factory.mktemp("wrong")
    results = {}
    for ranks in sorted({program.ranks for program in PROGRAMS.values()}):
        done = start_mpirun(ranks, FOLDER / "run_wrong.py", folder, limit=60)
        assert done.returncode == 0, done.stdout + done.stderr
        for rank in range(ranks):
            for name, result in json.loads((folder / f"{ranks}-{rank}.json").read_text()).items():
                results[name, rank] = result
    return results


def test_there_are_enough():
    assert len(PROGRAMS) >= 40
    classes = {name.partition(".")[0] for name in PROGRAMS}
    assert classes >= {"operation", "dtype", "count", "root", "order", "missing", "arguments"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_caught_and_named(said, name):
    program = PROGRAMS[name]
    for rank in range(program.ranks):
        result, expected = said[name, rank], program.raises.get(rank)
        if expected is None:
            assert result["raised"] is None
        elif expected.startswith("MismatchError"):
            pattern = re.escape(expected).replace(re.escape("#*"), r"#\d+")
            assert re.fullmatch(pattern, result["raised"])
        else:
            assert result["raised"].startswith(expected)
        assert result.get("usable", True)


@pytest.mark.parametrize("how", ["raises", "exits", "stops"])
def test_a_lost_rank(mpirun, tmp_path, how):
    done = mpirun(3, FOLDER / "lost.py", how, tmp_path, limit=30)
    assert done.returncode != 0
    lines = (FOLDER / "lost.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith("# the line"))
    where = f"in allreduce #2 at {FOLDER / 'lost.py'}:{line} for rank 1"
    for rank in (0, 2):
        said = (tmp_path / str(rank)).read_text()
        assert said.startswith(f"rank {rank} of 3 waited 1 s {where}")


def test_a_dead_rank(mpirun, tmp_path):
    """The launcher ends the others, or they say for whom they wait."""
    done = mpirun(3, FOLDER / "lost.py", "dies", tmp_path, limit=30)
    assert done.returncode != 0
    for file in tmp_path.iterdir():
        assert file.name in "02"
        assert file.read_text().startswith(f"rank {file.name} of 3 waited 1 s in allreduce #2 at ")
