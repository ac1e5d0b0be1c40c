"""hpcpar: distributed arrays and distributed training over MPI, with the same bits on any layout.

>>> import hpcpar
>>> comm = hpcpar.Communicator()
>>> total = hpcpar.TreeSum(comm, leaves=16, like=gradients)

Names are loaded when they are first used, so that importing the package costs next to nothing and
environment variables that libraries read at import (threads of the BLAS) can still be set.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.errors import HangError, MismatchError, UserError
    from hpcpar.linalg import DistributedMatrix, distribute, explain, matmul
    from hpcpar.mesh import Mesh
    from hpcpar.parallel.parallelize import parallelize
    from hpcpar.tree import TreeSum

__version__ = "0.1.0"
__all__ = [
    "Communicator",
    "DistributedMatrix",
    "HangError",
    "Mesh",
    "MismatchError",
    "TreeSum",
    "UserError",
    "__version__",
    "distribute",
    "explain",
    "matmul",
    "parallelize",
]

_HOME = {
    "Communicator": "hpcpar.comm",
    "DistributedMatrix": "hpcpar.linalg",
    "HangError": "hpcpar.errors",
    "Mesh": "hpcpar.mesh",
    "MismatchError": "hpcpar.errors",
    "TreeSum": "hpcpar.tree",
    "UserError": "hpcpar.errors",
    "distribute": "hpcpar.linalg",
    "explain": "hpcpar.linalg",
    "matmul": "hpcpar.linalg",
    "parallelize": "hpcpar.parallel",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpcpar' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
