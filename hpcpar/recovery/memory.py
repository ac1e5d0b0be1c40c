"""The state in memory that outlives a job: `python -m hpcpar launch` starts again from it.

After each update every rank copies what it updates into a memory that a keeper on its node holds
too (apart/keeper.py). Ranks of a node that update the same share the copying. When the job dies,
whatever way and on any MPI, the ranks of the next one put the newest state together that is whole.
It is gone with its node: then the newest checkpoint on disk is what there is.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.apart.keeper import start_keeper, to_keeper
from hpcpar.apart.links import Line
from hpcpar.comm import agree
from hpcpar.comm.shared_memory import HostMemory, check_memory
from hpcpar.device import Array
from hpcpar.entry import note
from hpcpar.parallel.parts import Part
from hpcpar.parallel.state import shapes, updated
from hpcpar.recovery.rescue import Parts, rescue
from hpcpar.recovery.slots import Slots

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.parallel import ParallelModel

__all__ = ["Memory"]

Stretch = tuple[int, int, int]  # number of a part, and the elements of it that are copied here


class Memory:
    """A rank's line to its keeper, and the memory that it writes. Collective, as all its calls are.

    Args:
        job: the name that the launcher has given to all jobs of this run.
    """

    def __init__(self, comm: "Communicator", job: str) -> None:
        self._comm, self._line = comm, _reach(comm, job)
        self._slots: Slots | None = None
        self._stretches: list[Stretch] = []
        self._generation = 0  # of the memory of one job, and of one model in it

    def recall(
        self, model: "ParallelModel", fill: Callable[[str, str, Array], None]
    ) -> tuple[int, Any] | None:
        """Set the newest state that is whole; its step, and what was written with it.

        None where there is none.
        """
        states = list(self._states())
        mine = sorted({step for step, _, _ in states})
        told = agree(self._comm, json.dumps([self._generation, mine]))
        known = [json.loads(text) for text in told if text]
        # One whose keeper has not answered must not write what the others have forgotten.
        self._generation = max(generation for generation, _ in known)
        for step in sorted({step for _, steps in known for step in steps}, reverse=True):
            here = [(text, parts) for number, text, parts in states if number == step]
            parts: Parts = [part for _, found in here for part in found]
            if not rescue(self._comm, parts, fill, list(shapes(model))):
                texts = agree(self._comm, here[0][0] if here else None)
                return step, next(json.loads(text) for text in texts if text)
        return None

    def open(self, model: "ParallelModel") -> None:
        """Make room for the state of a model; what was before is forgotten with the next `write`.

        Where memory is short, nothing is kept from here on, and a note says so.
        """
        own = list(updated(model))
        self._stretches = _stretches(self._comm, [part for part, _ in own])
        parts = [_cut(own[number][0], start, stop) for number, start, stop in self._stretches]
        kinds = ["weights", *model.update.optimizer.kinds]
        size, problem, memory = Slots.bytes(parts, kinds), None, HostMemory()
        self._slots = None
        try:
            if self._line is None:
                raise OSError("there is no keeper")
            check_memory(size)
            mapped, _ = memory.allocate(size)
            slots = Slots(mapped, (parts, kinds))
            name = [self._generation + 1, self._comm.rank]
            self._line.send({"keep": name}, [memory.descriptor])
            if not (answers := self._line.receive()):
                raise OSError("the keeper does not answer")
            self._generation = answers[0]["kept"][0]
        except (OSError, EOFError) as error:
            problem = str(error) or "the keeper is gone"
        finally:
            memory.close()
        problems = [text for text in agree(self._comm, problem) if text]
        if problems:
            note(f"nothing is kept in memory, restarts go from disk: {problems[0]}", self._comm)
        else:
            self._slots = slots

    def write(self, model: "ParallelModel", step: int, told: object) -> None:
        """The state after a step, with a JSON value beside it. No rank waits for another."""
        if self._slots is None:
            return
        kinds = self._slots.kinds
        with model.timeline.on("other", "memory"):
            own = [arrays for _, arrays in updated(model)]
            self._slots.write(step, json.dumps(told), [
                [own[number][kind][start:stop] for kind in kinds]
                for number, start, stop in self._stretches
            ])  # fmt: skip

    def forget_others(self) -> None:
        """All ranks have written: older memory is not needed.

        Nor is any where nothing is kept: who goes on from disk would be taken back by it.
        """
        self._comm.barrier()
        if self._line is not None:
            kept = self._slots is not None
            self._line.offer({"forget": self._generation + (not kept)})

    def done(self) -> None:
        """Nothing will be started again."""
        if self._line is not None:
            self._line.offer({"done": True})

    def close(self) -> None:
        """This rank writes no more; what it has written stays."""
        self._slots = None
        if self._line is not None:
            self._line.close()

    def _states(self) -> Iterator[tuple[int, str, list[tuple[Part, dict[str, np.ndarray]]]]]:
        """Those of the memory on this node that are this rank's to give."""
        if self._line is None or not self._line.offer({"list": True}):
            return
        try:
            found = [entry for message in self._line.receive() for entry in message["kept"]]
        except EOFError:
            return
        self._generation = max([0, *(entry[0] for entry in found)])
        for _, _, *place, size in found[self._comm.local_rank :: self._comm.local_size]:
            try:
                memory = HostMemory().open(np.array(place, np.uint64).tobytes(), size)
                for step, text, parts in Slots(memory).read():
                    json.loads(text)
                    yield step, text, parts
            except (OSError, ValueError):
                continue


def _reach(comm: "Communicator", job: str) -> Line | None:
    """A line to the keeper of this node, which is started where there is none."""
    for _ in range(2):
        line, problem = None, None
        try:
            line = to_keeper(job)
        except OSError as error:
            problem = str(error)
        if not any(agree(comm, problem)):
            return line
        if line is None and comm.local_rank == 0:
            with contextlib.suppress(OSError):  # `open` says that there is none
                start_keeper(job)
        comm.barrier()
    return line


def _stretches(comm: "Communicator", parts: Sequence[Part]) -> list[Stretch]:
    """What this rank copies of what it updates: ranks of its node may update the same."""
    text = json.dumps([part.to_json() for part in parts])
    nodes = comm.node_map or (0,) * comm.size
    same = [
        rank
        for rank, theirs in enumerate(agree(comm, text))
        if theirs == text and nodes[rank] == nodes[comm.rank]
    ]
    index, stretches = same.index(comm.rank), []
    for number, part in enumerate(parts):
        size = len(part.run)
        start, stop = (size * edge // len(same) for edge in (index, index + 1))
        if start < stop:
            stretches.append((number, start, stop))
    return stretches


def _cut(part: Part, start: int, stop: int) -> Part:
    run = range(part.run.start + start, part.run.start + stop)
    return Part(part.name, part.shape, part.cut, run)
