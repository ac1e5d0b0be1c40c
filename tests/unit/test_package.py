"""The package as a whole: what its import costs, its floors, the size of its files."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

import hpcpar

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(ROOT.glob("hpcpar/**/*.py"))
LONGEST = 400  # lines; a file that grows past it is two files


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a new Python has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    # The budget is 150 ms beyond NumPy and mpi4py; what it is spent on can be tested, time cannot.
    added = modules_after("import hpcpar") - modules_after("")
    assert added - sys.stdlib_module_names == {"hpcpar"}


def test_communicator_and_tree_load_no_more_than_they_compute_with() -> None:
    added = modules_after("from hpcpar import Communicator, TreeSum") - modules_after("")
    added = {name for name in added if "cython" not in name}  # mpi4py's runtime
    assert added - sys.stdlib_module_names <= {"hpcpar", "numpy", "mpi4py", "ml_dtypes"}


def test_every_public_name_is_there() -> None:
    assert set(dir(hpcpar)) == set(hpcpar.__all__)
    for name in hpcpar.__all__:
        assert getattr(hpcpar, name) is not None
    with pytest.raises(AttributeError, match="hpcpar' has no attribute 'Comunicator"):
        _ = hpcpar.Comunicator


def test_version_is_the_installed_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", hpcpar.__version__)
    assert metadata("hpcpar")["Version"] == hpcpar.__version__


def test_licence_travels_with_the_package() -> None:
    assert metadata("hpcpar")["License-Expression"] == "BSD-3-Clause"
    assert metadata("hpcpar")["License-File"] == "LICENSE"
    assert "The hpcpar developers" in (ROOT / "LICENSE").read_text()


def test_modules_import_only_from_floors_below() -> None:
    linter = Path(sys.prefix, "bin", "lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < LONGEST
    assert path.name == "__init__.py" or lines[0].startswith('"""'), (
        "it begins by saying what it is"
    )


def test_the_extras_that_the_documentation_names_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {
        *("openmpi", "mpich", "cuda12", "cuda13", "nccl12", "nccl13"),
        *("test", "peers", "bench", "docs"),
    }
