"""Parallel training: how one model's step is shared by many ranks."""

from hpcpar.parallel.config import BatchConfig, ParallelConfig
from hpcpar.parallel.evaluate import evaluate
from hpcpar.parallel.parallelize import parallelize
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.parallel.training import ParallelModel

__all__ = [
    "BatchConfig",
    "ParallelConfig",
    "ParallelModel",
    "evaluate",
    "parallelize",
    "tensor_parallel",
]
