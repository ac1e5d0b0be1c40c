"""The layout of a run on fewer ranks than it had. Pure."""

from dataclasses import replace
from math import gcd

from hpcpar.parallel.config import ParallelConfig

__all__ = ["fewer"]


def fewer(parallel: ParallelConfig, ranks: int, reproducible: str) -> tuple[ParallelConfig, int]:
    """A layout for `ranks` that keeps the bits where there is one, and how many ranks it takes.

    Data and pipeline ranks have the same bits in any number. The others too under "layout";
    under "ranks" there have to be as many tensor and context ranks as before, and the ranks that
    are left over are spare. Where there are fewer than that, no layout has the same bits.
    """
    if parallel.plan == "auto":
        return replace(parallel, speeds=()), ranks
    shared = parallel.context * parallel.tensor
    if reproducible != "ranks":
        context = gcd(parallel.context, ranks)
        tensor = gcd(parallel.tensor, ranks // context)
    elif shared <= ranks:
        context, tensor = parallel.context, parallel.tensor
    else:
        context = tensor = 1
    groups = ranks // (context * tensor)
    stages = next(p for p in range(min(parallel.pipeline, groups), 0, -1) if groups % p == 0)
    found = replace(
        parallel, data=-1, pipeline=stages, context=context, tensor=tensor,
        sequence=parallel.sequence and tensor > 1, speeds=(),
    )  # fmt: skip
    return found, groups * context * tensor
