"""The running of schedules among the ranks of a communicator."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from hpcpar.comm.arguments import UFUNCS, operand
from hpcpar.comm.engine import Engine, Patience
from hpcpar.comm.flight import Flight
from hpcpar.comm.guard import Guard
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.perform import Bound, Peers, Programs, Scratch, perform
from hpcpar.comm.request import Call, Numbers, Request, Work
from hpcpar.comm.symmetric import Symmetric, local
from hpcpar.comm.transports.mpi import HostTransport, MessageTransport
from hpcpar.comm.transports.roads import Roads
from hpcpar.comm.transports.transport import Transport
from hpcpar.device import Array
from hpcpar.schedule.steps import Step

if TYPE_CHECKING:
    from hpcpar.comm.transports.nccl import NcclTransport

__all__ = ["SEGMENT_BYTES", "Running"]

SEGMENT_BYTES = 1 << 20
BINDINGS = 16  # that a symmetric array remembers


class Running:
    """What stands behind every operation; `Core` makes it."""

    ledger: Ledger
    timeout: float
    _who: str  # rank 2 of 4
    _closed: bool
    _collective: MPI.Comm  # collectives and messages have tags of their own
    _engine: Engine
    _flight: Flight
    _guard: Guard | None
    _host: HostTransport
    _mail: MessageTransport
    _numbers: dict[str, Numbers]
    _programs: Programs
    _reach: tuple[int, ...] | None  # process ids, where all ranks reach each other's memory
    _roads: Roads | None  # of GPU arrays
    _scratch: Scratch

    def run(
        self,
        steps: Sequence[Step],
        buffers: Mapping[str, Array | Symmetric],
        op: str = "sum",
        name: str = "schedule",
    ) -> None:
        """Perform a schedule of this rank (`hpcpar.schedule`), and wait until it is done.

        Args:
            steps: this rank's steps; all ranks perform schedules that fit together. A tuple is
                prepared once, so pass the same one again.
            buffers: the arrays that the steps name, all of one dtype, on one device, seen as flat,
                none of them over another's memory. A buffer that is not given is scratch memory. Of
                symmetric arrays steps may also name other ranks' (`schedule.steps.Span.rank`).
            op: what `Combine` does: sum, max or min.
            name: what errors and the ledger call it.

        Raises ValueError and TypeError for arrays that cannot travel, `HangError` as every wait.
        """
        self.irun(steps, buffers, op, name).wait()

    def irun(
        self,
        steps: Sequence[Step],
        buffers: Mapping[str, Array | Symmetric],
        op: str = "sum",
        name: str = "schedule",
    ) -> Request:
        """`run`, only started."""
        if op not in UFUNCS or op == "mean":
            raise ValueError(f"{name}: op is {op!r}; it must be sum, max or min")
        if not buffers:
            raise ValueError(f"{name}: no buffers were given")
        arrays = {key: self._operand(name, key, array) for key, array in buffers.items()}
        program = self._programs[steps]
        for key, array in arrays.items():
            if array.size < program.extents.get(key, 0):
                raise ValueError(
                    f"{name}: {key} has {array.size} elements, the schedule {program.extents[key]}"
                )
        for key in sorted(program.shared):
            if not self._reaches_all(buffers.get(key)):
                raise ValueError(f"{name}: {key} is no symmetric array of these ranks on one node")
        if len({(type(array), array.dtype) for array in arrays.values()}) > 1:
            raise ValueError(f"{name}: the buffers differ in dtype, or not all are on one device")
        dtype = next(iter(arrays.values())).dtype
        given = {
            key: array if isinstance(array, Symmetric) else arrays[key]
            for key, array in buffers.items()
        }
        return self._start(
            name, lambda call: self._perform(call, steps, given, UFUNCS[op]), op=op, dtype=dtype
        )

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
                if error := self._engine.give_up(call, patience):
                    raise error

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
        if self._roads is not None:
            call.ready = self._roads.messages.ready()
            if kind == "collective" and self._nccl is not None:
                operation = self._nccl.in_turn(call, operation)
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
        remote: Peers | None = None,
    ) -> Work:
        """Run a schedule on arrays that were checked; `remote` are the peers' of ordinary ones."""
        channel = self._collective if channel is None else channel
        bound, transport, keep = self._bind(steps, arrays, ufunc, call.kind, remote)
        yield from perform(call, bound, transport, channel, finish)
        if not keep:
            bound.release(self._scratch)

    def _bind(
        self,
        steps: Sequence[Step],
        arrays: Mapping[str, Array | Symmetric],
        ufunc: str,
        kind: str,
        remote: Peers | None = None,
    ) -> tuple[Bound, Transport, bool]:
        """A schedule with its arrays; whether it is kept: symmetric arrays are for many calls."""
        program = self._programs[steps]
        owners = [array for array in arrays.values() if isinstance(array, Symmetric)]
        transport = self._transport(local(next(iter(arrays.values()))), kind)
        keep = len(owners) == len(arrays)
        key = (id(program), ufunc, *map(id, owners))
        if keep and (known := owners[0].bindings.get(key)) is not None:
            return known[0], transport, True
        flats = {name: local(array).reshape(-1) for name, array in arrays.items()}
        peers = dict(remote or {}) | {
            name: array.flats()
            for name, array in arrays.items()
            if isinstance(array, Symmetric) and name in program.shared
        }
        places = [
            f"{name}: {len(flats[name])} of {array.place}"
            for name, array in arrays.items()
            if isinstance(array, Symmetric) and (name == "x" or name in program.written)
        ]
        bound = Bound(program, flats, ufunc, transport, self._scratch, peers, places)
        if keep:
            if len(owners[0].bindings) >= BINDINGS:
                owners[0].bindings.clear()
            owners[0].bindings[key] = bound, owners  # holding on to them keeps their ids their own
        return bound, transport, keep

    @property
    def _nccl(self) -> "NcclTransport | None":
        """NCCL's own, on backend nccl."""
        return self._roads.nccl if self._roads is not None else None

    def _operand(self, call: str, name: str, thing: object, writable: bool = False) -> Array:
        """`thing` as an array that can travel here, or an error at once."""
        array = operand(call, name, thing, writable)
        self._transport(array)
        return array

    def _transport(self, array: Array, kind: str = "collective") -> Transport:
        """The way for this kind of array, and of call."""
        if type(array).__module__.partition(".")[0] != "cupy":
            return self._mail if kind == "message" else self._host
        if self._roads is None:
            raise ValueError("a GPU array, on a communicator that computes on the CPU: device=cuda")
        return self._roads.messages if kind == "message" else self._roads.collectives

    def _reaches_all(self, x: object) -> bool:
        """Whether `x` is symmetric memory of these ranks, and all are on one node."""
        return isinstance(x, Symmetric) and x.comm is self and x.complete

    def _segment(self, array: Array) -> int:
        """Elements in one message."""
        return max(1, SEGMENT_BYTES // array.dtype.itemsize)


def _nothing(call: Call) -> Work:
    yield from ()
