"""What a communicator is, before it has any operations."""

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from mpi4py import MPI

from hpcpar.comm.arrival import await_all
from hpcpar.comm.ending import end_uncaught_hangs
from hpcpar.comm.engine import Engine
from hpcpar.comm.flight import open_flight
from hpcpar.comm.guard import Guard
from hpcpar.comm.launch import refuse_single_worlds
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.lost import losses
from hpcpar.comm.perform import Programs, Scratch
from hpcpar.comm.place import find_place
from hpcpar.comm.progress import start_progress
from hpcpar.comm.remote import find_reach
from hpcpar.comm.request import Call, Numbers, Work
from hpcpar.comm.running import SEGMENT_BYTES, Running
from hpcpar.comm.selection import Selection, find_selection
from hpcpar.comm.small import SmallAllreduce, SmallSwap
from hpcpar.comm.transports.mpi import HostTransport, MessageTransport
from hpcpar.comm.transports.roads import BACKENDS, Roads, open_roads
from hpcpar.device import Device
from hpcpar.errors import HangError, LostRankError, UserError
from hpcpar.schedule.collectives import barrier

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Core"]


class Core(Running):
    """The ranks, and where they are."""

    def __init__(
        self,
        mpi_comm: MPI.Comm | None = None,
        device: str = "auto",
        backend: str = "auto",
        check: bool = False,
        timeout: float = 60,
    ) -> None:
        if mpi_comm is None:
            mpi_comm = MPI.COMM_WORLD
            refuse_single_worlds(os.environ, mpi_comm.Get_size())
        if not isinstance(mpi_comm, MPI.Intracomm) or mpi_comm == MPI.COMM_NULL:
            raise TypeError(f"mpi_comm is {mpi_comm!r}; it must be an mpi4py intracommunicator")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}; it must be a number of seconds above 0")
        self._backend, self.check, self.timeout = backend, check, timeout
        with losses(mpi_comm, "a communicator was made"):
            await_all(mpi_comm, timeout)
            self._find_all(mpi_comm, device)

    def _find_all(self, mpi_comm: MPI.Intracomm, device: str) -> None:
        """A communicator that was not split from another one. Collective."""
        self._place = find_place(mpi_comm)
        self.device = self._find_device(mpi_comm, device, self._backend, bool(self.check))
        self._host, self._mail = HostTransport(), MessageTransport(SEGMENT_BYTES)
        self._roads = self._open_roads(mpi_comm)
        end_uncaught_hangs()
        engine = Engine(self.timeout, self._place.crowded)
        self._open(mpi_comm, engine, owned=False)
        # BLAS threads are cores that are not free; a GPU's context belongs to the main thread.
        threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        each = 1 + (int(threads) if threads.isdigit() else 1)
        free = self._place.cores >= each * self._place.local_size
        if free and self.device.kind == "cpu" and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            start_progress(engine)
        self._selection = find_selection(cast("Communicator", self), self._backend)

    def _find_device(self, mpi_comm: MPI.Comm, wish: str, backend: str, check: bool) -> Device:
        """This rank's device. If a rank has none, all raise, for they would wait for it next.

        So they do where `check` differs.
        """
        found, problem = Device(), ""
        try:
            found = Device.resolve(wish, self._place.local_rank)
            if backend in ("staged", "nccl") and found.kind == "cpu":
                problem = f"backend {backend} is for GPUs, and this rank computes on the CPU"
        except UserError as error:
            problem = str(error)
        told = mpi_comm.allgather((problem, check))
        problems = [text for text, _ in told]
        for rank, text in enumerate(problems):
            if text:
                raise UserError(text if all(problems) else f"rank {rank}: {text}")
        for rank, (_, theirs) in enumerate(told):
            if theirs != told[0][1]:
                raise UserError(f"check is {told[0][1]} on rank 0 and {theirs} on rank {rank}")
        return found

    def _open_roads(self, mpi_comm: MPI.Comm) -> Roads | None:
        """The ways of GPU arrays, where this communicator computes on GPUs."""
        if self.device.kind == "cpu":
            return None
        from hpcpar.comm.transports.cuda import CudaGpu

        rank = self._place.local_rank
        return open_roads(self._backend, CudaGpu(), mpi_comm, rank, self.timeout)

    def _open(self, mpi_comm: MPI.Comm, engine: Engine, owned: bool) -> None:
        self.mpi, self._owned, self._engine = mpi_comm, owned, engine
        self.rank, self.size = mpi_comm.Get_rank(), mpi_comm.Get_size()
        self._who = f"rank {self.rank} of {self.size}"
        self._flight = open_flight(mpi_comm, self.timeout)  # type: ignore[arg-type]
        # Collectives and messages have tags of their own, and the user's traffic is elsewhere.
        self._collective, self._message = mpi_comm.Dup(), mpi_comm.Dup()
        self._tags = mpi_comm.Get_attr(MPI.TAG_UB) or 32767  # what MPI promises at least
        self._numbers = {kind: Numbers(self._tags) for kind in ("collective", "message")}
        self._programs, self._scratch = Programs(), Scratch()
        self._reach = find_reach(mpi_comm) if 1 < self.size == self._place.local_size else None
        self._selection = Selection()  # the schedules' own choice, where nothing was measured
        self._closed = False
        if self._nccl is not None:
            engine.hung.append(self._nccl.abort)  # or its kernels would spin for ever
        self.ledger = Ledger()
        self._guard: Guard | None = None
        if self.check and self.size > 1:
            self._guard = Guard(cast("Communicator", self), mpi_comm)
        mpi_comm.Barrier()  # all have the channels: they may be revoked
        engine.channels += [mpi_comm, *self._channels]
        self._small = (SmallSwap if self.size == 2 else SmallAllreduce)(
            self, engine, self._collective, self._numbers["collective"], self._flight
        )

    @property
    def local_rank(self) -> int:
        """This rank's number on its node."""
        return self._place.local_rank

    @property
    def local_size(self) -> int:
        """Ranks on this node."""
        return self._place.local_size

    @property
    def node(self) -> int:
        """This node's number."""
        return self._place.node

    @property
    def nodes(self) -> int:
        """Nodes that have ranks of this communicator."""
        return self._place.nodes

    @property
    def scratch_bytes(self) -> int:
        """The most that its operations have needed of arrays of their own, at a time."""
        return self._scratch.bytes

    @property
    def node_map(self) -> tuple[int, ...] | None:
        """The node of each rank; None where all are on one, or where NCCL looks after that."""
        return self._place.map if self._place.nodes > 1 and self._nccl is None else None

    def split(self, color: int | None, key: int = 0) -> Self | None:
        """A communicator of the ranks with the same color, ordered by key, then by rank.

        Collective. A rank with color None gets None. Requests of the new communicator and of this
        one move each other on; each counts its own calls, and both are closed separately.
        """
        if color is not None and (not isinstance(color, int | np.integer) or color < 0):
            raise ValueError(f"split: color is {color!r}; it must be None or a number from 0")
        if not isinstance(key, int | np.integer):
            raise ValueError(f"split: key is {key!r}; it must be a number")
        self._start("split", self._meet).wait()  # MPI's own calls have no limit
        try:
            return self._split(MPI.UNDEFINED if color is None else int(color), int(key))
        except (MPI.Exception, LostRankError) as error:
            raise self._engine.explain(error, f"{self._who}, split") from error

    def _split(self, color: int, key: int) -> Self | None:
        part = self.mpi.Split(color, key)
        self.mpi.Barrier()  # all have `part`: it may be revoked
        if part == MPI.COMM_NULL:
            return None
        assert isinstance(part, MPI.Intracomm)
        with losses(part, "a communicator was split"):
            return self._child(part)

    def _child(self, part: MPI.Intracomm) -> Self:
        child = type(self).__new__(type(self))
        child.device, child._backend = self.device, self._backend
        child.check, child.timeout = self.check, self.timeout
        child._host, child._mail = self._host, self._mail
        child._place = find_place(part)
        child._roads = self._roads
        if self._nccl is not None:  # those of NCCL are for its ranks alone
            child._roads = child._open_roads(part)
        child._open(part, self._engine, owned=True)
        return child

    def close(self) -> None:
        """Wait for what is under way, and free the communicator. Collective; a second time is well.

        After a hang, here or on another rank, nothing is freed: a message that nobody took may be
        left, and MPI could give it to the next communicator, which may get the same number. Raises
        `HangError` where a rank does not come, and what went wrong in a request that nobody waited
        for, on the rank where it did; the communicator is closed all the same. After a
        `MismatchError` (check=True: the others are in another call) it is not.
        """
        if self._closed:
            return
        self._small.forget()
        if self._engine.broken is not None:
            self._closed = True
            return
        failure: Exception | None = None
        for request in self._engine.under_way(self.ledger):
            try:
                request.wait()
            except HangError:
                self._closed = True
                raise
            except Exception as error:
                failure = error
        try:
            self._start("close", self._part, tag=self._tags).wait()
        except HangError:
            self._closed = True
            raise
        self._closed = True
        if self._nccl is not None:
            self._nccl.close()
        self._free()
        if failure is not None:
            raise failure

    def _meet(self, call: Call, channel: MPI.Comm | None = None) -> Work:
        tokens = {"x": np.zeros(self.size.bit_length() + 1, np.uint8)}
        yield from self._perform(call, barrier(self.rank, self.size), tokens, channel=channel)

    def _part(self, call: Call) -> Work:
        """A barrier apart from the collectives: where one of them hangs, its messages are left."""
        return self._meet(call, self._message)

    def _free(self) -> None:
        self._flight.close()
        kept, own = self._engine.channels, self._channels
        kept[:] = [comm for comm in kept if comm is not self.mpi and comm not in own]
        for comm in [*own, self.mpi] if self._owned else own:
            comm.Free()

    @property
    def _channels(self) -> list[MPI.Comm]:
        """Communicators of MPI that are its own."""
        guard = [] if self._guard is None else self._guard.channels
        return [self._collective, self._message, *guard]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._closed = True  # the others may be anywhere: wait for nobody
            self._small.forget()

    def __repr__(self) -> str:
        return f"<Communicator: rank {self.rank} of {self.size} on {self.device}>"
