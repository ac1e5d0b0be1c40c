"""Parallel training: how one model's step is shared by many ranks."""

from hpcpar.parallel.data import BatchConfig, DataParallel
from hpcpar.parallel.evaluate import evaluate

__all__ = ["BatchConfig", "DataParallel", "evaluate"]
