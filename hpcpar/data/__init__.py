"""What a model learns from: corpora of bytes or tokens, tables, and who gets which sample when."""

from hpcpar.data.bigram import bigram_loss
from hpcpar.data.config import DataConfig
from hpcpar.data.dataset import Dataset, Part
from hpcpar.data.open import consecutive_windows, open_data
from hpcpar.data.sampler import Course, Sampler
from hpcpar.data.samplers import make_sampler

__all__ = [
    "Course",
    "DataConfig",
    "Dataset",
    "Part",
    "Sampler",
    "bigram_loss",
    "consecutive_windows",
    "make_sampler",
    "open_data",
]
