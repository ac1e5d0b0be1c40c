"""The mean loss of a model over many samples, shared by all ranks."""

from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Arena, Model
from hpcpar.parallel.micros import Micros
from hpcpar.tree import TreeSum

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.data import Part

__all__ = ["evaluate"]


def evaluate(
    model: Model,
    params: dict[str, Array],
    part: "Part",
    samples: np.ndarray,
    micro: int,
    comm: "Communicator",
    arena: Arena | None = None,
) -> float:
    """The mean loss per target over the given samples of a part, the same bits on any rank count.

    Collective. The samples go through the model `micro` at a time, the last time with what is left;
    each such micro-batch is a leaf of one tree sum in float64.
    """
    arena = arena or Arena(comm.device.xp)
    micros = [samples[start : start + micro] for start in range(0, len(samples), micro)]
    total = TreeSum(comm, len(micros), like=np.zeros(1))
    batches = Micros(part, micros)
    for leaf in total.mine:
        inputs, targets = (comm.device.asarray(a) for a in batches.batch(leaf))
        own = model.with_layers(batches.layers(leaf, model.layers, comm.device))
        total.add(leaf, np.array([own.loss(params, inputs, targets, arena)], dtype=np.float64))
    return float(total.reduce()[0]) / (len(samples) * part.targets_per_sample)
