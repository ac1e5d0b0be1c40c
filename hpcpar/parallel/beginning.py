"""The state that a run begins with."""

from typing import TYPE_CHECKING

from hpcpar.comm import together
from hpcpar.nn import load_weights
from hpcpar.parallel.state import shapes, spread

if TYPE_CHECKING:
    from hpcpar.parallel.training import ParallelModel

__all__ = ["set_first_weights"]


def set_first_weights(model: "ParallelModel", init_from: str, seed: int) -> None:
    """Weights from a folder, or drawn from a seed where `init_from` is empty; no optimizer state.

    Collective. Raises `UserError` on all ranks when the folder cannot be read.
    """
    if init_from:
        given = None
        with together(model.comm):
            if model.comm.rank == 0:
                given = load_weights(init_from, shapes(model))
        spread(model, given)
    else:
        model.initialize(seed)
    optimizer = model.update.optimizer
    for flat in optimizer.flat_state.values():
        flat.fill(0)
    optimizer.steps = 0
