"""What all tests share: who may run where, the same examples every time, mpirun as a fixture."""

import importlib.util
from collections.abc import Callable
from functools import cache
from subprocess import CompletedProcess

import hypothesis
import pytest
from in_step import InStep
from launch import start_mpirun

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


@pytest.fixture
def mpirun() -> Callable[..., CompletedProcess[str]]:
    """mpirun(3, "-m", "hpcpar.train", limit=60, env={...}, cwd=...): see `launch.start_mpirun`."""
    return start_mpirun
