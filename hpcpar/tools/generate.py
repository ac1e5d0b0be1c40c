"""python -m hpcpar generate RUN --prompt TEXT"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm import together
from hpcpar.errors import UserError
from hpcpar.nn import Arena
from hpcpar.rng import generator
from hpcpar.tools.load import Trained, load_gpt

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["generate"]


def generate(
    run: str,
    prompt: str = "\n",
    tokens: int = 256,
    temperature: float = 0.8,
    seed: int = 0,
    tokenizer: str = "",
    *,
    comm: "Communicator",
) -> None:
    """Continue a text with a trained GPT, from a run or an exported folder.

    Args:
        run: The folder of a run, or one that GPT2LMHeadModel loads.
        prompt: The text to continue.
        tokens: How many tokens to add.
        temperature: Above 1 wilder, below 1 tamer; 0 always takes the likeliest token.
        seed: Another seed, another text.
        tokenizer: A tokenizer.json; by default the one in the folder. A model of bytes needs none.
    """
    with together(comm):
        if comm.rank == 0:
            if temperature < 0 or tokens < 0:
                raise UserError("--temperature and --tokens must be 0 or more")
            trained = load_gpt(run)
            encode, decode = _codec(trained, tokenizer or str(Path(run) / "tokenizer.json"))
            start = encode(prompt)
            if not start:
                raise UserError("--prompt is empty: give at least one character")
            sys.stdout.write(prompt)
            text = decode(list(_sample(trained, start, tokens, temperature, seed)))
            print(text, flush=True)


def _sample(
    trained: Trained, start: list[int], count: int, temperature: float, seed: int
) -> Iterator[int]:
    """`count` tokens, one after the other, each drawn from the model's distribution."""
    context, arena, random = trained.sizes["context"], Arena(np), generator(seed, "generate")
    params, past = trained.params, list(start)
    for _ in range(count):
        window = past[-context:]
        # Always a full window: a causal model does not see the zeros behind the text.
        inputs = np.zeros((1, context), np.int64)
        inputs[0, : len(window)] = window
        logits = trained.model.logits(params, inputs, arena)  # (1, T, V)
        row = logits[0, len(window) - 1].astype(np.float64)
        arena.give(logits)
        if temperature == 0:
            token = int(row.argmax())
        else:
            weights = np.exp((row - row.max()) / temperature)
            token = int(random.choice(row.size, p=weights / weights.sum()))
        past.append(token)
        yield token


def _codec(
    trained: Trained, tokenizer: str
) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    if trained.reads == "bytes":
        return lambda s: list(s.encode()), lambda t: bytes(t).decode(errors="replace")
    if not Path(tokenizer).is_file():
        raise UserError(
            f"this model reads tokens, and {tokenizer} does not exist: name one with --tokenizer"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError("reading a tokenizer needs a package: pip install tokenizers") from None
    try:
        codec = Tokenizer.from_file(tokenizer)
    except Exception as error:  # the package raises nothing more exact
        raise UserError(f"{tokenizer} cannot be read: {error}") from None
    return lambda s: codec.encode(s).ids, codec.decode
