"""`hpcpar.Communicator`, the whole of it."""

from hpcpar.comm.messages import Messages
from hpcpar.comm.reductions import Reductions
from hpcpar.comm.sharing import Sharing

__all__ = ["Communicator"]


class Communicator(Reductions, Sharing, Messages):
    """Ranks that communicate.

    >>> comm = hpcpar.Communicator()
    >>> with hpcpar.Communicator(timeout=20) as comm:
    ...     total = comm.allreduce(x)

    Args:
        mpi_comm: an mpi4py communicator, COMM_WORLD if None. It is duplicated: what you do with it
            yourself does not mix with what happens here.
        device: auto, cpu or cuda; see `hpcpar.device.Device.resolve`.
        backend: how GPU arrays travel: mpi (by a CUDA-aware MPI library), staged (through pinned
            host memory), nccl, or auto: mpi where that can be, else staged. Host arrays go by MPI.
        check: whether ranks compare what they are about to do before they do it (`guard`).
        timeout: seconds without progress after which a wait is a hang.

    Attributes: rank, size, device, mpi (the communicator it was made of), ledger, timeout, and the
    place: local_rank, local_size, node, nodes. Collective; raises `UserError` where srun started
    worlds of one rank, or where there is no GPU though one was asked for.
    """
