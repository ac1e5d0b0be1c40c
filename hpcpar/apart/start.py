"""Starts a small process that outlives the rank that has started it."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["start_apart"]

# It needs neither MPI nor NumPy, so the packages above its module are stood in for.
_PROGRAM = """# a process beside the ranks of hpcpar
import importlib, sys, types
root, module = sys.argv[1:]
for name in "hpcpar", "hpcpar.apart", "hpcpar.comm", "hpcpar.comm.flight":
    package = types.ModuleType(name)
    package.__path__ = [root + "/" + name.replace(".", "/")]
    sys.modules[name] = package
importlib.import_module(module).main()
"""


def start_apart(
    module: str, config: dict[str, Any], listeners: Sequence[socket.socket], quiet: bool = False
) -> subprocess.Popen[bytes]:
    """Start `module.main()`, and do not wait for it: the sockets take calls already.

    It reads `config`, as JSON, on its standard input. It has a session of its own, so that what
    ends the ranks leaves it alone; of the caller's files it keeps standard error, or nothing where
    it is `quiet`: a launcher waits for the end of those.
    """
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, root, module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        pass_fds=[listener.fileno() for listener in listeners],
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(config).encode())
    return process
