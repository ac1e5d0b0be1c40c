"""GPT-2: "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019)."""

import numpy as np

from hpcpar.nn.block import Block
from hpcpar.nn.embedding import Embedding
from hpcpar.nn.head import Head
from hpcpar.nn.losses import CrossEntropy
from hpcpar.nn.model import Model

__all__ = ["gpt"]


def gpt(layers: int, heads: int, width: int, context: int, vocabulary: int) -> Model:
    """A GPT-2 without dropout: tokens (B, T), T <= context, to logits (B, T, vocabulary).

    Names, shapes and the start are those of Hugging Face's GPT2LMHeadModel: weights are (in, out),
    the output projection is the token embedding.
    """
    prefix = "transformer."
    return Model(
        [
            Embedding(prefix, vocabulary, context, width),
            *(Block(f"{prefix}h.{i}.", width, heads, layers) for i in range(layers)),
            Head(prefix, width, vocabulary),
        ],
        CrossEntropy(),
        flops_per_sample=_flops(layers, width, context, vocabulary),
        input_shape=(context,),
        input_dtype=np.int32,
    )


def _flops(layers: int, width: int, context: int, vocabulary: int) -> int:
    """Six a token and weight of the matrices; and what the causal mask leaves of attention."""
    weights = layers * 12 * width**2 + vocabulary * width
    attention = layers * 6 * width * (context + 1)  # a token, on average over its positions
    return context * (6 * weights + attention)
