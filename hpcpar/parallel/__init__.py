"""Parallel training: how one model's step is shared by many ranks."""

from hpcpar.parallel.data import BatchConfig, DataParallel
from hpcpar.parallel.evaluate import evaluate
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.parallel.update import SharedUpdate

__all__ = ["BatchConfig", "DataParallel", "SharedUpdate", "evaluate", "tensor_parallel"]
