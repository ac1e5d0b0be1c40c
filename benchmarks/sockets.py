"""The limit between two nodes: one TCP connection that moves as many bytes as a collective must.

    benchmarks/two_nodes.sh -n 2 python benchmarks/sockets.py --bytes 16777216 --ways 2
    mpirun --host a,b -n 2 python benchmarks/sockets.py --bytes 67108864 --ways 1

Two ranks, on different nodes. An allreduce of n bytes over two nodes moves at least n bytes each
way (`--ways 2`: both ends send and receive at the same time), a broadcast n bytes one way. The
bytes go from one array in memory to another by plain `send` and `recv_into`; MPI only tells the
ranks when to begin. Prints one JSON line: seconds of each move, of the rank that took longer.
"""

import argparse
import json
import os
import socket
import time
from threading import Thread

import numpy as np
from mpi4py import MPI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1 << 24)
    parser.add_argument("--ways", type=int, choices=(1, 2), default=2)
    parser.add_argument("--repeat", type=int, default=3, help="moves that count")
    parser.add_argument("--address", default=os.environ.get("TWO_NODES_ADDRESS"), help="of rank 0")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size != 2:
        raise SystemExit(f"sockets.py takes two ranks, not {comm.size}")
    connection = connect(comm, options.address)
    seconds = []
    for _ in range(1 + options.repeat):
        source = np.full(options.bytes, comm.rank + 1, np.uint8)
        target = np.zeros(options.bytes, np.uint8)
        sends, receives = options.ways == 2 or comm.rank == 0, options.ways == 2 or comm.rank == 1
        comm.Barrier()
        began = time.perf_counter()
        move(connection, source if sends else None, target if receives else None)
        seconds.append(comm.allreduce(time.perf_counter() - began, MPI.MAX))
        if receives and not (target == 2 - comm.rank).all():
            raise SystemExit("sockets.py: what arrived is not what was sent")
    connection.close()
    if comm.rank == 0:
        print(json.dumps({"seconds": seconds[1:]}), flush=True)


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
