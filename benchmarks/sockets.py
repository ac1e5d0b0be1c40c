"""The limit between two nodes: one TCP connection that moves as many bytes as a collective must.

    benchmarks/two_nodes.sh -n 2 python benchmarks/sockets.py --operations allreduce bcast
    mpirun --host a,b -n 2 python benchmarks/sockets.py --operations bcast --sizes 67108864

Two ranks, on different nodes. An allreduce over two nodes moves at least its array each way, so
both ends send and receive at the same time; a broadcast moves it one way. The bytes go from one
array in memory to another by plain `send` and `recv_into`; MPI only tells the ranks when to begin.
Prints a JSON line for each operation and size: the median seconds, of the rank that took longer.
"""

import argparse
import json
import os
import socket
import statistics
import time
from threading import Thread

import numpy as np
from mpi4py import MPI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", nargs="+", choices=("allreduce", "bcast"), required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 24], help="bytes")
    parser.add_argument("--dtype", default="float32", help="what the bytes are counted in")
    parser.add_argument("--calls", type=int, default=5, help="moves that count")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds before each move")
    parser.add_argument("--address", default=os.environ.get("TWO_NODES_ADDRESS"), help="of rank 0")
    options = parser.parse_args()
    comm, dtype = MPI.COMM_WORLD, np.dtype(options.dtype)
    if comm.size != 2:
        raise SystemExit(f"sockets.py takes two ranks, not {comm.size}")
    connection = connect(comm, options.address)
    for operation in options.operations:
        for size in options.sizes:
            seconds, wrong = measure(comm, connection, operation, size, options)
            row = {"operation": operation, "size": size, "count": size // dtype.itemsize}
            row |= {"nodes": 2, "dtype": dtype.name, "seconds": seconds, "wrong": wrong}
            if comm.rank == 0:
                print(json.dumps(row), flush=True)
    connection.close()


def measure(
    comm: MPI.Comm,
    connection: socket.socket,
    operation: str,
    size: int,
    options: argparse.Namespace,
) -> tuple[float, int]:
    """Median seconds of a move, and how many bytes were wrong at the end."""
    sends = operation == "allreduce" or comm.rank == 0
    receives = operation == "allreduce" or comm.rank == 1
    seconds = []
    for _ in range(1 + options.calls):
        source, target = np.full(size, comm.rank + 1, np.uint8), np.zeros(size, np.uint8)
        time.sleep(options.pause)
        comm.Barrier()
        began = time.perf_counter()
        move(connection, source if sends else None, target if receives else None)
        seconds.append(comm.allreduce(time.perf_counter() - began, MPI.MAX))
    wrong = int(np.count_nonzero(target != 2 - comm.rank)) if receives else 0
    return statistics.median(seconds[1:]), comm.allreduce(wrong)  # the first move warms up


def connect(comm: MPI.Comm, address: str | None) -> socket.socket:
    """One connection between rank 0, which listens, and rank 1."""
    if comm.rank == 0:
        with socket.create_server(("", 0)) as server:
            server.settimeout(20)
            comm.bcast((address or socket.gethostname(), server.getsockname()[1]))
            connection, _ = server.accept()
    else:
        connection = socket.create_connection(comm.bcast(None), timeout=20)
    connection.settimeout(60)
    return connection


def move(connection: socket.socket, source: np.ndarray | None, target: np.ndarray | None) -> None:
    """Send all of `source` and fill all of `target`, at the same time."""
    sender = Thread(target=connection.sendall, args=(source.data,)) if source is not None else None
    if sender:
        sender.start()
    rest = memoryview(b"") if target is None else target.data
    while len(rest):
        if not (got := connection.recv_into(rest)):
            raise SystemExit("sockets.py: the other rank has hung up")
        rest = rest[got:]
    if sender:
        sender.join()


if __name__ == "__main__":
    main()
