"""Where a run stands, and how a new model comes to stand there."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hpcpar.data import Course
from hpcpar.device import Array
from hpcpar.parallel.state import fill, shapes
from hpcpar.recovery.events import Events
from hpcpar.recovery.memory import Memory
from hpcpar.recovery.rescue import Parts, rescue
from hpcpar.recovery.sentences import copies_lost
from hpcpar.recovery.spikes import History

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.parallel import ParallelModel

__all__ = ["Standing"]


class Standing:
    """The last step that all ranks have done, and what is left of it where they begin again.

    Args:
        job: the name that a launcher has given to all jobs of this run; then the state is kept in
            memory that outlives a job (memory.py). None for not.

    Attributes: step; rows, what the run tells of its last steps; course, the batches of its steps;
    history, of the steps up to this one; events, what happens.
    """

    def __init__(self, comm: "Communicator", job: str | None) -> None:
        self.step, self.rows, self.course = 0, dict[int, dict[str, Any]](), Course()
        self.events, self.history = Events(), History()
        self._model: ParallelModel | None = None
        self._saved: Parts | None = None  # the state of the step, until all have voted again
        self._giving = comm  # those that give it to a new model
        self._memory = Memory(comm, job) if job else None
        self._remembered = False  # the state is that of a job before

    @property
    def rescued(self) -> bool:
        """Whether the state of the last step comes from the ranks that are left after a loss."""
        return self._saved is not None

    @property
    def unwritten(self) -> bool:
        """Whether the line of the last step may not be written: nobody may have come to its end.

        Before a run's first step there is none to write.
        """
        return self.rescued and self.step in self.rows

    def restore(self, model: "ParallelModel") -> bool:
        """Set the state of the last step, where these ranks have it. Collective.

        From what they saved when they lost one, or from the memory of a job before.
        """

        def take(name: str, kind: str, whole: Array) -> None:
            fill(model, name, whole, kind)

        saved, memory = self._saved, self._memory
        if saved is None and memory is not None and (found := memory.recall(model, take)):
            self.step, (row, history, used) = found
            self._saved, self._remembered = [], True
            if row:
                self.rows[self.step] = row
            self.course = Course(self.step, used)
            self.history = History.from_json(history)
        elif not self._rescue(take, list(shapes(model))):
            return False
        model.update.optimizer.steps = self.step
        return True

    def _rescue(
        self, take: Callable[[str, str, Array], None] | None, names: Sequence[str] = ()
    ) -> bool:
        """Give the state of the last step to those that take it. Collective, spare ranks too."""
        if self._saved is None:
            return False
        if missing := rescue(self._giving, self._saved, take, names):
            self.events.note("lost", copies_lost(missing), self.step, self._giving)
            self._saved, self.step = None, 0
        return self.rescued

    def _remember(self, step: int) -> None:
        """The state of a step, for the next job."""
        if self._memory is not None and self._model is not None:
            told = self.rows.get(step), self.history.to_json(), self.course.before(step)
            self._memory.write(self._model, step, told)
