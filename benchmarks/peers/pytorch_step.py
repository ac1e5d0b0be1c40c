"""The work of benchmarks/pytorch_tree_sum.py: GPT-2 steps in PyTorch, with TreeSum or with DDP.

    mpirun -n 2 python benchmarks/peers/pytorch_step.py tree --layers 4 ...
    torchrun --nproc-per-node 2 benchmarks/peers/pytorch_step.py ddp --layers 4 ...

Model, text, micro-batches, clipping and optimizer are those of docs/examples/pytorch_tree_sum.py
for both. DDP has gloo, buckets that gradients lie in, and `no_sync` for all micro-batches of a rank
but its last, whose backward it overlaps with the sum. Prints one JSON line: seconds of each step,
and the losses (with DDP, of rank 0's part of the batch).
"""

import argparse
import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch_end import end

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "pytorch_tree_sum.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sum", choices=("tree", "ddp"))
    for name in ("layers", "heads", "width", "context", "leaves", "per-leaf", "micro", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    example = load(EXAMPLE)
    model = example.gpt2(options.layers, options.heads, options.width, options.context)
    work = (options.leaves, options.per_leaf, options.micro)
    if options.sum == "tree":
        import hpcpar

        with hpcpar.Communicator(device="cpu") as comm:
            report(comm.rank, example.train(comm, model, *work), options.steps)
    else:
        dist.init_process_group("gloo")
        report(dist.get_rank(), train_ddp(example, model, *work), options.steps)
        end()


def load(path: Path) -> ModuleType:
    """A module from a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(rank: int, losses: Iterator[float], steps: int) -> None:
    """Take the steps and print what they took."""
    seconds, values = [], []
    for _ in range(steps):
        began = time.perf_counter()
        values.append(next(losses))
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        print(json.dumps({"seconds": seconds, "losses": values}), flush=True)


def train_ddp(
    example: ModuleType, plain: torch.nn.Module, leaves: int, per_leaf: int, micro: int
) -> Iterator[float]:
    """`train` of the example with DistributedDataParallel: the same micro-batches, dealt evenly."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    count = leaves * per_leaf // ranks
    if count * ranks != leaves * per_leaf:
        raise SystemExit(f"{leaves * per_leaf} micro-batches do not go evenly over {ranks} ranks")
    text, context = example.library_text(), plain.config.n_positions
    model = torch.nn.parallel.DistributedDataParallel(plain, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss = torch.zeros(1)
    step = 0
    while True:
        loss.zero_()
        for number in range(rank * count, (rank + 1) * count):
            last = number == (rank + 1) * count - 1
            with contextlib.nullcontext() if last else model.no_sync():
                tokens = example.batch(text, step, number, micro, context)
                part = model(tokens, labels=tokens).loss / count
                part.backward()
            loss += part.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()
        step += 1


if __name__ == "__main__":
    main()
