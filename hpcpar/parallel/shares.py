"""The model as a rank trains it, for a plan: its part of every layer, and no communicator. Pure."""

from hpcpar.nn import Model
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.place import Place
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.tensor import tensor_parallel

__all__ = ["shared_model", "trained_model"]


def trained_model(
    model: Model, layout: Layout, tensor_rank: int = 0, context_rank: int = 0
) -> Model:
    """`shared_model`, recomputed if the layout says so."""
    shared = shared_model(model, layout, tensor_rank, context_rank)
    return recomputed(shared) if layout.parallel.recompute else shared


def shared_model(
    model: Model, layout: Layout, tensor_rank: int = 0, context_rank: int = 0
) -> Model:
    """The model as the rank at a place of the tensor and the context axis has it.

    Raises ValueError where it cannot be shared so.
    """
    positions = Place(context_rank, layout.context) if layout.context > 1 else None
    return tensor_parallel(
        model, Place(tensor_rank, layout.tensor), layout.tiles, layout.parallel.sequence, positions
    )
