"""torch.distributed's collectives, over gloo or NCCL: a competitor of benchmarks/collectives.py.

Started by mpirun like the others; MPI tells the ranks where to meet, and is their barrier.
"""

import socket
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from measure import Array, Arrays, Call, LeftOut, arguments, main, nodes
from mpi4py import MPI
from torch_end import end


class Tensors(Arrays):
    """Tensors on the CPU or a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def empty(self, count: int, dtype: np.dtype) -> Array:
        return torch.empty(count, dtype=getattr(torch, dtype.name), device=self.device)

    def write(self, array: Array, values: np.ndarray) -> None:
        array[...] = torch.from_numpy(values).to(self.device)

    def read(self, array: Array) -> np.ndarray:
        return array.cpu().numpy()

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def prepare(backend: str, operation: str, x: torch.Tensor, out: torch.Tensor) -> Call:
    """The call of an operation; it returns the tensor with the result."""
    calls = {
        "allreduce in place": lambda: dist.all_reduce(x),
        "bcast": lambda: dist.broadcast(x, 0),
        "allgather": lambda: dist.all_gather_into_tensor(out, x),
    }
    if operation not in calls:
        raise LeftOut(f"{operation} is not timed with {backend}")
    call, result = calls[operation], out if len(out) else x

    def timed() -> torch.Tensor:
        call()
        return result

    return timed


def meet(backend: str) -> torch.device:
    """Start torch.distributed on the ranks of MPI; returns this rank's device."""
    world = MPI.COMM_WORLD
    with socket.socket() as probe:
        probe.bind(("", 0))
        host = "127.0.0.1" if nodes() == 1 else socket.gethostname()
        address = f"tcp://{host}:{probe.getsockname()[1]}"
    address = world.bcast(address)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", world.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=address, rank=world.rank, world_size=world.size)
    return device


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo")
    backend = parser.parse_args().backend
    main(partial(prepare, backend), parser, Tensors(meet(backend)))
    MPI.Finalize()  # which a launcher must have seen
    end()
