"""What a communicator is, before it has any operations."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from mpi4py import MPI

from hpcpar.comm.arguments import UFUNCS, operand
from hpcpar.comm.ending import end_uncaught_hangs
from hpcpar.comm.flight import open_flight
from hpcpar.comm.guard import Guard
from hpcpar.comm.launch import refuse_single_worlds
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.perform import Bound, Programs, Scratch, perform
from hpcpar.comm.place import find_place
from hpcpar.comm.progress import start_progress
from hpcpar.comm.request import Call, Engine, Numbers, Patience, Request, Work
from hpcpar.comm.selection import Selection, find_selection
from hpcpar.comm.small import SmallAllreduce, SmallSwap
from hpcpar.comm.symmetric import Symmetric, local
from hpcpar.comm.transports.mpi import HostTransport
from hpcpar.comm.transports.staged import StagedTransport
from hpcpar.device import Array, Device
from hpcpar.errors import HangError, UserError
from hpcpar.schedule.collectives import barrier
from hpcpar.schedule.steps import Step

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Core"]

SEGMENT_BYTES = 1 << 20


class Core:
    """The ranks, where they are, and the running of schedules among them."""

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
        if backend not in ("auto", "mpi", "staged"):
            raise ValueError(f"backend is {backend!r}; it must be auto, mpi or staged")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}; it must be a number of seconds above 0")
        self._place = find_place(mpi_comm)
        self.device = self._find_device(mpi_comm, device, backend)
        self._backend, self.check, self.timeout = backend, check, timeout
        self._host = HostTransport()
        self._staged: StagedTransport | None = None  # made when the first GPU array comes
        end_uncaught_hangs()
        engine = Engine(timeout, self._place.crowded)
        self._open(mpi_comm, engine, owned=False)
        # BLAS threads are cores that are not free; a GPU's context belongs to the main thread.
        threads = int(os.environ.get("OMP_NUM_THREADS", "1").partition(",")[0] or 1)
        free = self._place.cores >= (threads + 1) * self._place.local_size
        if free and self.device.kind == "cpu" and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            start_progress(engine)
        self._selection = find_selection(cast("Communicator", self), backend)

    def _find_device(self, mpi_comm: MPI.Comm, wish: str, backend: str) -> Device:
        """This rank's device. If a rank has none, all raise, for they would wait for it next."""
        found, problem = Device(), ""
        try:
            found = Device.resolve(wish, self._place.local_rank)
            if backend == "staged" and found.kind == "cpu":
                problem = "backend staged is for GPUs, and this rank computes on the CPU"
        except UserError as error:
            problem = str(error)
        problems = mpi_comm.allgather(problem)
        for rank, text in enumerate(problems):
            if text:
                raise UserError(text if all(problems) else f"rank {rank}: {text}")
        return found

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
        self._selection = Selection()  # the schedules' own choice, where nothing was measured
        self._closed = False
        self.ledger = Ledger()
        self._guard: Guard | None = None
        if self.check and self.size > 1:
            self._guard = Guard(cast("Communicator", self), mpi_comm)
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
    def node_map(self) -> tuple[int, ...] | None:
        """The node of each rank; None where all are on one."""
        return self._place.map if self._place.nodes > 1 else None

    def run(
        self,
        steps: Sequence[Step],
        buffers: Mapping[str, Array],
        op: str = "sum",
        name: str = "schedule",
    ) -> None:
        """Perform a schedule of this rank (`hpcpar.schedule`), and wait until it is done.

        Args:
            steps: this rank's steps; all ranks perform schedules that fit together. A tuple is
                prepared once, so pass the same one again.
            buffers: the arrays that the steps name, all of one dtype, on one device, seen as flat,
                none of them over another's memory. A buffer that is not given is scratch memory.
            op: what `Combine` does: sum, max or min.
            name: what errors and the ledger call it.

        Raises ValueError and TypeError for arrays that cannot travel, `HangError` as every wait.
        """
        self.irun(steps, buffers, op, name).wait()

    def irun(
        self,
        steps: Sequence[Step],
        buffers: Mapping[str, Array],
        op: str = "sum",
        name: str = "schedule",
    ) -> Request:
        """`run`, only started."""
        if op not in UFUNCS or op == "mean":
            raise ValueError(f"{name}: op is {op!r}; it must be sum, max or min")
        if not buffers:
            raise ValueError(f"{name}: no buffers were given")
        arrays = {key: self._operand(name, key, array) for key, array in buffers.items()}
        reach = self._programs[steps].extents
        for key, array in arrays.items():
            if array.size < reach.get(key, 0):
                raise ValueError(
                    f"{name}: {key} has {array.size} elements, the schedule {reach[key]}"
                )
        if len({(type(array), array.dtype) for array in arrays.values()}) > 1:
            raise ValueError(f"{name}: the buffers differ in dtype, or not all are on one device")
        dtype = next(iter(arrays.values())).dtype
        return self._start(
            name, lambda call: self._perform(call, steps, arrays, UFUNCS[op]), op=op, dtype=dtype
        )

    def split(self, color: int | None, key: int = 0) -> Self | None:
        """A communicator of the ranks with the same color, ordered by key, then by rank.

        Collective. A rank with color None gets None. Requests of the new communicator and of this
        one move each other on; each counts its own calls, and both are closed separately.
        """
        if color is not None and (not isinstance(color, int | np.integer) or color < 0):
            raise ValueError(f"split: color is {color!r}; it must be None or a number from 0")
        if not isinstance(key, int | np.integer):
            raise ValueError(f"split: key is {key!r}; it must be a number")
        self._compare("split")
        chosen = MPI.UNDEFINED if color is None else color
        part = self.mpi.Split(chosen, key)
        if part == MPI.COMM_NULL:
            return None
        child = type(self).__new__(type(self))
        child.device, child._backend = self.device, self._backend
        child.check, child.timeout = self.check, self.timeout
        child._host, child._staged = self._host, self._staged
        child._place = find_place(part)
        child._open(part, self._engine, owned=True)
        return child

    def close(self) -> None:
        """Wait for what is under way, and free the communicator. Collective; a second time is well.

        After a hang, here or on another rank, nothing is freed: a message that nobody took may be
        left, and MPI could give it to the next communicator, which may get the same number.
        """
        if self._closed:
            return
        self._small.forget()
        if self._engine.broken is None:
            for request in self._engine.under_way(self.ledger):
                request.wait()
            with contextlib.suppress(HangError):
                self._start("close", self._meet, tag=self._tags).wait()
                self._free()
        self._closed = True

    def _meet(self, call: Call) -> Work:
        """A barrier apart from the collectives: where one of them hangs, its messages are left."""
        tokens = {"x": np.zeros(self.size.bit_length() + 1, np.uint8)}
        steps = barrier(self.rank, self.size)
        yield from self._perform(call, steps, tokens, channel=self._message)

    def _free(self) -> None:
        self._flight.close()
        self._collective.Free()
        self._message.Free()
        if self._guard is not None:
            self._guard.free()
        if self._owned:
            self.mpi.Free()

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

    def __repr__(self) -> str:
        return f"<Communicator: rank {self.rank} of {self.size} on {self.device}>"

    def wait_for(
        self,
        name: str,
        number: int,
        tag: int,
        peer: int,
        done: Callable[[], bool],
        record: int,
    ) -> None:
        """Wait for `peer` in a collective that has a record but no request. Raises HangError."""
        patience = Patience(self.timeout, self._engine.crowded)
        while not done():
            if patience.over(0):
                call = Call(self._flight, self._who, "collective", name, number, tag, {}, record)
                call.pending = lambda: (peer,)
                raise self._engine.give_up(call)

    def progress(self) -> None:
        """Move on what is under way, without waiting: for long computations between calls."""
        if self._engine.active:
            self._engine.advance()

    def _start(
        self,
        name: str,
        work: Callable[[Call], Work],
        kind: str = "collective",
        tag: int = -1,
        **facts: object,
    ) -> Request:
        """Start an operation; a collective has the tag of its number.

        `facts` is what the guard compares: arrays, and what else the ranks have to agree on.
        """
        if self._closed:
            raise ValueError(f"{name}: the communicator is closed")
        number, own = self._numbers[kind].next()
        tag = own if tag < 0 else tag
        call = Call(self._flight, self._who, kind, name, number, tag, facts)
        operation = work(call) if self._guard is None else self._guard.watch(call, work(call))
        return Request(self._engine, self.ledger, call, operation)

    def _compare(self, name: str, **facts: Any) -> None:
        """With check=True, begin an operation that has no request of its own."""
        if self._guard is not None:
            self._start(name, _nothing, **facts).wait()

    def _perform(
        self,
        call: Call,
        steps: Sequence[Step],
        arrays: Mapping[str, Array | Symmetric],
        ufunc: str = "add",
        channel: MPI.Comm | None = None,
        finish: Callable[[], object] | None = None,
    ) -> Work:
        """Run a schedule on arrays that were checked."""
        channel = self._collective if channel is None else channel
        bound, transport, keep = self._bind(steps, arrays, ufunc)
        yield from perform(call, bound, transport, channel, finish)
        if not keep:
            bound.release(self._scratch)

    def _bind(
        self, steps: Sequence[Step], arrays: Mapping[str, Array | Symmetric], ufunc: str
    ) -> tuple[Bound, HostTransport | StagedTransport, bool]:
        """A schedule with its arrays; whether it is kept: symmetric arrays are for many calls."""
        program = self._programs[steps]
        owners = [array for array in arrays.values() if isinstance(array, Symmetric)]
        transport = self._transport(local(next(iter(arrays.values()))))
        keep = len(owners) == len(arrays)
        key = (id(program), ufunc, *map(id, owners))
        if keep and (bound := owners[0].bindings.get(key)) is not None:
            return bound, transport, True
        flats = {name: local(array).reshape(-1) for name, array in arrays.items()}
        peers = {
            name: array.flats()
            for name, array in arrays.items()
            if isinstance(array, Symmetric) and name in program.shared
        }
        bound = Bound(program, flats, ufunc, transport, self._scratch, peers)
        if keep:
            owners[0].bindings[key] = bound
        return bound, transport, keep

    def _operand(self, call: str, name: str, thing: object, writable: bool = False) -> Array:
        """`thing` as an array that can travel here, or an error at once."""
        array = operand(call, name, thing, writable)
        self._transport(array)
        return array

    def _transport(self, array: Array) -> HostTransport | StagedTransport:
        """The way for this kind of array."""
        if type(array).__module__.partition(".")[0] != "cupy":
            return self._host
        if self._backend == "mpi":
            raise ValueError("backend mpi takes host arrays only; GPU arrays go by backend staged")
        if self._staged is None:
            from hpcpar.comm.transports.cuda import CudaStream

            self._staged = StagedTransport(CudaStream())
        return self._staged

    def _segment(self, array: Array) -> int:
        """Elements in one message."""
        return max(1, SEGMENT_BYTES // array.dtype.itemsize)


def _nothing(call: Call) -> Work:
    yield from ()
