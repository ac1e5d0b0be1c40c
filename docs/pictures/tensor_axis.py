"""What tensor-parallel ranks hold of a block and do in it, from blocks that are really shared."""

from pathlib import Path
from typing import Any

import numpy as np
from held import Part, draw_arrays
from noted import Compute, Entry, Noted, listen
from step import draw_steps

from hpcpar.nn import Arena
from hpcpar.nn.block import Block
from hpcpar.parallel.tensor_block import TensorBlock
from hpcpar.parallel.tensor_group import TensorGroup

__all__ = ["draw_tensor_axis"]

RANKS, WIDTH, HEADS, ROWS = 4, 16, 8, 24
KINDS = {"tensor_sum": "sum", "tensor_rows": "rows brought together"}
FORMS = {"tensor": False, "with\nsequence": True}


def draw_tensor_axis(folder: Path) -> None:
    """tensor_held.svg and tensor_step.svg."""
    draw_arrays(
        {name.replace("\n", " "): _arrays(sequence) for name, sequence in FORMS.items()},
        folder / "tensor_held.svg",
    )  # fmt: skip
    draw_steps(
        {name: _step(sequence) for name, sequence in FORMS.items()}, folder / "tensor_step.svg",
        title="a block, forward and backward, on rank 0 of 4",
        label=lambda start: (KINDS[start.kind], ""), unit="products with the weight of mlp.c_fc",
        elements=2 * ROWS * WIDTH,
    )  # fmt: skip


def _shared(rank: int, sequence: bool) -> tuple[Any, TensorGroup, TensorBlock]:
    comm: Any = Noted(rank, RANKS)
    group = TensorGroup(comm, None, sequence)
    return comm, group, TensorBlock(Block("", WIDTH, HEADS, 1), group)


def _arrays(sequence: bool) -> list[Part]:
    """Residual stream, weights and what is between them, in the order of a forward."""
    found = [_shared(rank, sequence) for rank in range(RANKS)]
    held = [{p.name: p for p in block.parameters} for _, _, block in found]
    rows = [[group.rows(ROWS).held] for _, group, _ in found]
    stream: Part = ("x", (ROWS, WIDTH), 0 if sequence else None, rows)
    parts = [stream]
    for first, between, last in (
        ("attn.c_attn", "q, k, v", "attn.c_proj"),
        ("mlp.c_fc", "hidden units", "mlp.c_proj"),
    ):
        for name in (first, last):
            cuts = [parameters[f"{name}.weight"].cut for parameters in held]
            shape, axis, runs = cuts[0].shape, cuts[0].axis, [cut.runs for cut in cuts]
            parts.append((name, shape, axis, runs))
            if name == first:  # its result is cut as its columns are
                parts.append((between, (ROWS, shape[1]), axis, runs))
        parts.append(stream)
    return parts


def _step(sequence: bool) -> list[Entry]:
    """What rank 0 does. Attention takes a half of a product with mlp.c_fc, as in long sequences."""
    comm, _, block = _shared(0, sequence)
    log = comm.log
    for name, linear in (block.products_in | block.products_out).items():
        time, word = {"attn.c_attn": 0.75, "attn.c_proj": 0.25}.get(name, 1), name.split(".")[1]
        for method, kind in (
            ("forward", "forward"),
            ("input_gradient", "input gradient"),
            ("weight_gradient", "weight gradient"),
        ):
            entry = Compute(kind, word, time)
            listen(log, linear, method, lambda *_, entry=entry, **__: entry)
    listen(log, block.attention, "forward", lambda *_: Compute("forward", "attn", 0.5))
    listen(log, block.attention, "backward", lambda *_: Compute("input gradient", "attn", 1))
    arena = Arena(np)
    values = {p.name: np.zeros(p.shape, np.float32) for p in block.parameters}
    gradients = {name: np.zeros_like(array) for name, array in values.items()}
    x, dy = (arena.take((2, ROWS // 2, WIDTH), np.float32) for _ in range(2))
    x[...], dy[...] = 0, 0
    with np.errstate(all="ignore"):  # what was not received may be any number
        _, saved = block.forward(values, x, arena)
        block.backward(values, gradients, dy, saved, arena)
    return list(log)
