"""What all tests share: who may run where, the same examples every time, mpirun as a fixture."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import hypothesis
import pytest
from in_step import InStep
from launch import start_mpirun
from touched import listening  # noqa: F401  (a fixture)

from hpcpar.device import Device
from hpcpar.errors import UserError

# The same examples on every rank and in every run; no data base that ranks would write at once.
hypothesis.settings.register_profile("hpcpar", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("hpcpar")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "MPIPlugin":
            plugin._is_testing_mpi = (
                False  # pytest-mpi's only use of it: a page about MPI at the end
            )
    if config.getoption("--with-mpi") and not config.getoption("--collect-only"):
        from mpi4py import MPI

        if MPI.COMM_WORLD.Get_size() > 1:
            config.pluginmanager.register(InStep(MPI.COMM_WORLD))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in (("gpu", no_gpu), ("peers", no_peers)):
        if item.get_closest_marker(marker) and (reason := missing()):
            pytest.skip(reason)


@cache
def no_gpu() -> str:
    try:
        Device.resolve("cuda", 0)
    except UserError as error:
        return f"needs a GPU ({error})"
    return ""


@cache
def no_peers() -> str:
    names = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    return f"needs {' and '.join(names)}: pip install 'hpcpar[peers]'" if names else ""


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run.toml of a small GPT, for trainings that something happens to."""
    from training import write_config

    return write_config(tmp_path_factory.mktemp("config"), "gpt")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Callable[..., str]:
    """undisturbed(20, "--parallel.tensor", "2"): the hash of such a run that nothing happens to.

    On two ranks. The arguments are what the bits depend on.
    """
    from training import sha256

    @cache
    def find(steps: int, *bits: str) -> str:
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        done = start_mpirun(
            2, "-m", "hpcpar.train", str(config), "--steps", str(steps), *bits,
            "--run.dir", str(folder),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return sha256(done)

    return find


@pytest.fixture
def mpirun() -> Callable[..., CompletedProcess[str]]:
    """mpirun(3, "-m", "hpcpar.train", limit=60, env={...}, cwd=...): see `launch.start_mpirun`."""
    return start_mpirun
