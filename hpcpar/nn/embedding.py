"""The first layer of a GPT: what a token is, plus where it stands."""

from typing import Any

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import embedding
from hpcpar.nn.parameters import Parameter

__all__ = ["Embedding"]


class Embedding:
    """Tokens (B, T) -> wte[token] + wpe[position] (B, T, C), for T up to `context`."""

    def __init__(self, prefix: str, vocabulary: int, context: int, width: int):
        self.tokens = Parameter(f"{prefix}wte.weight", (vocabulary, width), "normal", 0.02)
        self.positions = Parameter(f"{prefix}wpe.weight", (context, width), "normal", 0.02)
        self.parameters = [self.tokens, self.positions]

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        tokens, positions = p[self.tokens.name], p[self.positions.name]
        batch, length = x.shape
        if length > len(positions):
            raise ValueError(
                f"a sequence has {length} tokens, the model's context {len(positions)}"
            )
        y = arena.take((batch, length, tokens.shape[1]), tokens.dtype)
        embedding.forward(x.reshape(-1), tokens, y.reshape(batch * length, -1))
        namespace(y).add(y, positions[:length], out=y)
        return y, x

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> None:
        tokens, length = saved, saved.shape[1]
        positions = g[self.positions.name]
        dy.sum(axis=0, out=positions[:length])
        positions[length:] = 0
        rows = dy.reshape(-1, dy.shape[-1])
        embedding.backward(tokens.reshape(-1), rows, g[self.tokens.name], arena)
        arena.give(dy, tokens)

    def backward_input(self, p: Tensors, dy: Array, saved: Any, arena: Arena) -> tuple[None, Any]:
        return None, (dy, saved)

    def backward_weight(self, g: Tensors, kept: Any, arena: Arena) -> None:
        dy, tokens = kept
        self.backward({}, g, dy, tokens, arena)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, self.tokens.shape[1])
