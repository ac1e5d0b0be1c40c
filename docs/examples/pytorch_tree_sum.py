"""GPT-2 of transformers, trained in PyTorch with TreeSum in place of DDP.

    mpirun -n 3 python docs/examples/pytorch_tree_sum.py

The last line is the hash of the trained weights. It is the same on 1, 2, 3, 5 or 8 ranks, because
the gradient is one sum of 16 leaves in one fixed order, whoever computed which leaf. It needs
`pip install torch transformers` and trains on the sources of Python's standard library, as bytes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import hpcpar
from hpcpar.fingerprint import weights_sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro", type=int, default=2, help="sequences in a micro-batch")
    parser.add_argument("--per-leaf", type=int, default=1, help="micro-batches in a leaf")
    parser.add_argument("--leaves", type=int, default=16, help="leaves of the sum")
    options = parser.parse_args()
    with hpcpar.Communicator(device="cpu") as comm:
        model = gpt2(layers=2, heads=4, width=128, context=128)
        losses = train(comm, model, options.leaves, options.per_leaf, options.micro)
        for step, loss in zip(range(1, options.steps + 1), losses, strict=False):
            if comm.rank == 0:
                print(f"step {step}  loss {loss:.6f}", flush=True)
        if comm.rank == 0:
            print("weights sha256", weights_hash(model))


def gpt2(layers: int, heads: int, width: int, context: int) -> GPT2LMHeadModel:
    """A model over bytes, the same on every rank. One thread: its number is part of the bits."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    shape = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": context}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **shape, **no_dropout)
    )


def train(
    comm: hpcpar.Communicator, model: GPT2LMHeadModel, leaves: int, per_leaf: int, micro: int
) -> Iterator[float]:
    """Take a step for each value asked for: the loss, the mean over the global batch.

    A step has leaves * per_leaf micro-batches of `micro` sequences. A leaf is the sum of its
    micro-batches' gradients in one flat array, with their loss as its last element.
    """
    text = library_text()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    flat = torch.empty(sum(p.numel() for p in parameters) + 1)
    total = hpcpar.TreeSum(comm, leaves, like=flat)
    step = 0
    while True:
        for leaf in total.mine:
            buffer = total.buffer()
            loss = attach(parameters, torch.from_dlpack(buffer).zero_())
            for number in range(leaf * per_leaf, (leaf + 1) * per_leaf):
                tokens = batch(text, step, number, micro, model.config.n_positions)
                part = model(tokens, labels=tokens).loss / (leaves * per_leaf)
                part.backward()  # adds to the pieces of the buffer
                loss += part.detach()
            total.add(leaf, buffer)
        total.reduce(out=flat)  # the same bits on every rank, and for every number of ranks
        loss = attach(parameters, flat)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item()
        step += 1


def attach(parameters: Sequence[torch.Tensor], flat: torch.Tensor) -> torch.Tensor:
    """Make every parameter's gradient its piece of `flat`; returns the one element behind them."""
    *pieces, rest = flat.split([*(p.numel() for p in parameters), 1])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
    return rest


def batch(text: torch.Tensor, step: int, number: int, micro: int, context: int) -> torch.Tensor:
    """Micro-batch `number` of a step, (micro, context): it depends on nothing else."""
    random = np.random.Generator(np.random.Philox(key=[step, number]))
    starts = random.integers(len(text) - context, size=micro)
    return torch.stack([text[start : start + context] for start in starts]).long()


def library_text() -> torch.Tensor:
    """The standard library's modules, (bytes,), uint8."""
    files = sorted(Path(argparse.__file__).parent.glob("*.py"))
    return torch.frombuffer(bytearray().join(f.read_bytes() for f in files), dtype=torch.uint8)


def weights_hash(model: GPT2LMHeadModel) -> str:
    """One hash of all weights."""
    return weights_sha256({name: w.detach().numpy() for name, w in model.named_parameters()})


if __name__ == "__main__":
    main()
