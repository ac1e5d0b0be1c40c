"""Programs in which ranks wait for what never comes: no comparison ends, but every wait does."""

import numpy as np
from programs.wrong.program import hangs

from hpcpar import Communicator


@hangs(
    2,
    {
        0: "1 s in send #1 (tag 6) at {a} for rank 1",
        1: "1 s in recv #1 (tag 5) at {b} for rank 0",
    },
)
def a_tag_that_is_never_sent(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.send(np.ones(4), 1, tag=6)  # a
    else:
        comm.recv(np.ones(4), 0, tag=5)  # b


@hangs(2, {rank: f"1 s in send #1 (tag 0) at {{a}} for rank {1 - rank}" for rank in range(2)})
def both_send_first(comm: Communicator) -> None:
    """MPI would let this pass as long as the arrays fit its buffers."""
    other = 1 - comm.rank
    comm.send(np.ones(4), other)  # a
    comm.recv(np.ones(4), other)


@hangs(3, {0: "1 s in recv #1 (tag 0) at {a} for rank 2"})
def nobody_sends(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.recv(np.ones(4), 2)  # a


@hangs(
    3,
    {
        0: "1 s in sendrecv #1 (tag 0) at {a} for ranks 1 and 2",
        1: "1 s in sendrecv #1 (tag 0) at {a} for rank 0",
        2: "1 s in sendrecv #1 (tag 0) at {a} for rank 0",
    },
)
def a_ring_that_turns_both_ways(comm: Communicator) -> None:
    """Rank 0 sends to the left, where the others send to the right."""
    turn = -1 if comm.rank == 0 else 1
    after, before = (comm.rank + turn) % comm.size, (comm.rank - turn) % comm.size
    comm.sendrecv(np.ones(4), after, np.ones(4), before)  # a


@hangs(
    2,
    {
        0: "1 s in barrier #1 at {a} for rank 1",
        1: "1 s in barrier #2 at {b} for rank 0",
    },
)
def two_communicators_in_two_orders(comm: Communicator) -> None:
    """Each compares its own calls only."""
    half = comm.split(0)
    assert half is not None
    if comm.rank == 0:
        half.barrier()  # a
        comm.barrier()
    else:
        comm.barrier()  # b
        half.barrier()


@hangs(3, {rank: "1 s in allreduce #1 at {a} for rank 1" for rank in (0, 2)})
def a_rank_that_gives_up(comm: Communicator) -> None:
    """What rank 1 raises, and where it catches it, is not the communicator's business."""
    if comm.rank != 1:
        comm.allreduce(np.ones(4))  # a
