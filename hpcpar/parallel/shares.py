"""The model as ranks share it, for plans: the part of one rank, and no communicator. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from hpcpar.errors import UserError
from hpcpar.nn import Model
from hpcpar.nn.model import planned
from hpcpar.parallel.layout import Layout, Sharing
from hpcpar.parallel.place import Place
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.parallel.traffic import shared_layers

__all__ = ["lone_model", "shared_model", "sharings", "trained_model"]

# What is looked at where it is not given.
UNEVEN = 1.1  # a rank has so much of the products at most, times its share
WIDEST = 8  # tensor ranks at most: as many as often are in a node
SHORTEST = 256  # positions of a context rank at least


def lone_model(model: Model, tiles: int | None) -> Model:
    """The model as one rank has it: with tiles, where the bits must not depend on the ranks."""
    return tensor_parallel(model, None, tiles)


def shared_model(model: Model, how: Sharing, tiles: int | None, *places: int) -> Model:
    """The model as a rank has it, at its `places` on the tensor and the context axis.

    Raises ValueError where it cannot be shared so.
    """
    tensor, context = places or (0, 0)
    positions = Place(context, how.context) if how.context > 1 else None
    return tensor_parallel(model, Place(tensor, how.tensor), tiles, how.sequence, positions)


def trained_model(model: Model, layout: Layout, *places: int) -> Model:
    """`shared_model` of a layout, recomputed if it says so."""
    shared = shared_model(model, layout.sharing, layout.tiles, *places)
    return recomputed(shared) if layout.parallel.recompute else shared


def sharings(
    model: Model, ranks: int, micro: int, tiles: int | None, given: Mapping[str, object]
) -> list[Sharing]:
    """Every way in which ranks, or some of them, can share the layers of a model.

    Args:
        micro: samples of a micro-batch.
        given: keys of `ParallelConfig`; those of an axis leave no choice.

    What is not given is left out where a rank would have much more to do than others, or where many
    ranks would share little: see the numbers above. Raises `UserError` where what is given cannot
    be.
    """
    found, refused = [], ""
    for how in _candidates(model, ranks, given):
        try:
            shared = shared_model(model, how, tiles)
            traffic = [one for *_, one in shared_layers(shared, micro) if one is not None]
            for one in traffic:
                one.group.rows(one.rows)  # are there as many as ranks?
        except ValueError as error:
            refused = str(error)
            continue
        rows = any(any(one.gathers) for one in traffic)  # that can be shared
        chosen = how.tensor == given.get("tensor", 1) or _even(model, shared, how, micro)
        if chosen and (rows or not how.sequence or "sequence" in given):
            found.append(how)
    if not found and refused:
        keys = [f"--parallel.{n} {given[n]}" for n in ("context", "tensor") if given.get(n, 1) != 1]
        raise UserError(f"{' '.join(keys) or '--reproducible layout'}: {refused}")
    return found


def _candidates(model: Model, ranks: int, given: Mapping[str, object]) -> Iterator[Sharing]:
    def sizes(name: str, most: int) -> Sequence[int]:
        if name in given:
            return [n for n in range(1, ranks + 1) if n == given[name]]
        return [n for n in range(1, min(ranks, most) + 1) if ranks % n == 0]

    long = model.input_shape[0] // SHORTEST
    for tensor, context in product(sizes("tensor", WIDEST), sizes("context", max(1, long))):
        if ranks % (tensor * context) == 0:
            for sequence in (False, True) if tensor > 1 else (False,):
                if tensor == 1 or sequence == given.get("sequence", sequence):
                    yield Sharing(tensor, sequence, context)


def _even(model: Model, shared: Model, how: Sharing, micro: int) -> bool:
    """Whether the first tensor rank, which has most, has about its share."""
    whole, own = (
        sum(planned(layer).flops(shape) for layer, shape, _ in shared_layers(one, micro))
        for one in (model, shared)
    )
    return own * how.tensor * how.context <= UNEVEN * whole
