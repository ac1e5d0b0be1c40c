"""Tensor and context parallelism: the layers of a model, each of them shared by several ranks."""

from typing import TYPE_CHECKING

from hpcpar.nn import Model
from hpcpar.nn.block import Block
from hpcpar.nn.dense import Dense
from hpcpar.nn.embedding import Embedding
from hpcpar.nn.head import Head
from hpcpar.nn.model import Layer
from hpcpar.parallel.context import Context
from hpcpar.parallel.place import Place
from hpcpar.parallel.tensor_block import TensorBlock
from hpcpar.parallel.tensor_dense import ColumnDense, RowDense
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_loss import TensorCrossEntropy
from hpcpar.parallel.tensor_vocabulary import TensorEmbedding, TensorHead
from hpcpar.parallel.timeline import Timeline

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["tensor_parallel"]


def tensor_parallel(
    model: Model,
    ranks: "Communicator | Place | None",
    tiles: int | None,
    sequence: bool = False,
    positions: "Communicator | Place | None" = None,
    timeline: Timeline | None = None,
    features: bool = False,
) -> Model:
    """The model with layers that `ranks` share; `model` itself stays as it is.

    Heads, hidden units, the vocabulary, and the inputs of an MLP and a linear model are cut. Every
    rank holds a part of the weights (`Parameter.cut`), and all are given the same micro-batch. They
    all get the loss, and the complete gradient of what they hold; where that is a whole tensor the
    same bits. A GPT's logits stay cut: a rank has those of its part of the vocabulary.

    Args:
        ranks: those along a mesh's tensor axis; None where there is one. A plan, which computes
            nothing, names a rank's place instead.
        tiles: None: every cut axis is cut once for each rank. A number: every such axis is cut into
            so many tiles (or as many as it has heads, units, tokens), and products and sums go tile
            by tile: the bits are then the same on any number of ranks up to that, one as well.
        sequence: whether a GPT's residual stream and norms are shared by rows as well, which saves
            memory; the bits are the same. Takes micro-batches of at least as many rows, that is
            tokens, as there are ranks.
        positions: the ranks along the context axis, likewise. A GPT's residual
            stream, logits and loss are then those of this rank's positions (`Context`), and so are
            its gradients: they are still to be summed over these ranks.
        timeline: told of the time in which layers wait for other ranks.
        features: whether each rank is given its own columns of the inputs of an MLP or a linear
            model, not all: its first layer is then row-parallel (`by_features`).

    Raises ValueError for more ranks than tiles, heads, units, tokens or inputs, and for a layer
    that nobody knows how to share.
    """
    sequences = isinstance(model.layers[0], Embedding)
    if positions is not None and not sequences:
        raise ValueError("only sequences have a context to share: take a --model.kind gpt")
    length = model.input_shape[0] if sequences else 1
    context = Context(positions, length, tiles if sequences else None, timeline)
    group = TensorGroup(ranks, tiles, sequence, context)
    if group.tiles == context.spans.count == 1:
        return model
    if features:
        return by_features(model, group)
    count = len(model.layers)
    layers = [_shared(layer, count - 1 - n, group) for n, layer in enumerate(model.layers)]
    last, loss = model.layers[-1], None
    if isinstance(last, Head):
        loss = TensorCrossEntropy(last.output.shape[0], group)
    return model.with_layers(layers, loss)


def by_features(model: Model, group: TensorGroup) -> Model:
    """An MLP or a linear model whose first layer takes this rank's columns of the inputs only.

    The sum over all columns is the layer's output, so the pairs of layers that are cut come behind
    it: column-parallel, row-parallel. A last layer without a partner stays whole on every rank.

    Raises ValueError where there are more ranks than inputs or units, and for sequences.
    """
    layers: list[Layer] = []
    for number, layer in enumerate(model.layers):
        if not isinstance(layer, Dense):
            raise ValueError(f"the inputs of a {type(layer).__name__} have no features to share")
        if number % 2:
            last = layer is model.layers[-1]
            layers.append(layer if last else ColumnDense(layer, group))
        else:
            layers.append(RowDense(layer, group))
    own = layers[0].parameters[0].shape[0]
    return model.with_layers(layers, input_shape=(own,))


def _shared(layer: Layer, behind: int, group: TensorGroup) -> Layer:
    """One layer; `behind` it are so many others."""
    if isinstance(layer, Block):
        return TensorBlock(layer, group)
    if isinstance(layer, Embedding):
        return TensorEmbedding(layer, group)
    if isinstance(layer, Head):
        return TensorHead(layer, group)
    if isinstance(layer, Dense):
        # Pairs from the end: what a column-parallel one leaves cut, a row-parallel one takes so.
        return RowDense(layer, group) if behind % 2 == 0 else ColumnDense(layer, group)
    raise ValueError(f"tensor parallelism knows no {type(layer).__name__}")
