"""Steps whose loss or gradient is no good: the run stops, passes over them, or goes back.

A step that is passed over counts: samples and learning rate are those of its number, and so is the
optimizer's count of steps. So it can be resumed, and done again, on any layout.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar import checkpoint
from hpcpar.checkpoint import Checkpoint
from hpcpar.comm import agree
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.parallel.beginning import set_first_weights
from hpcpar.recovery.crew import Crew
from hpcpar.recovery.spikes import MOST_IN_VAIN, MOST_SKIPPED, History, why_spike

if TYPE_CHECKING:
    from hpcpar.config import Config
    from hpcpar.parallel import ParallelModel
    from hpcpar.run import RunFolder

__all__ = ["LossGuard"]


class LossGuard:
    """What `--optim.on_spike` asks for. Collective, like all its calls.

    >>> marks = guard.judge(step, loss, norm)      # of the step's row; none for a good step
    >>> guard.update(step, rate, scale)            # the crew's, or none after a spike
    """

    def __init__(
        self,
        config: "Config",
        crew: Crew,
        model: "ParallelModel",
        saving: checkpoint.Writer,
        folder: "RunFolder | None",
        start: int,
    ) -> None:
        """The run begins after `start`: what was before, all ranks learn from those that know."""
        self._config, self._crew, self._model = config, crew, model
        self._saving, self._folder = saving, folder
        self._why = ""  # the step that was judged last is a spike
        self._target: int | None = None  # the step to go back to
        self._saved: Checkpoint | None = None  # of that step
        own = History()
        if crew.rescued:
            own = crew.history.until(start)
        elif folder is not None:
            own = History.of_rows(folder.metrics())
        told = [History.from_json(text or "") for text in agree(model.comm, own.to_json())]
        crew.history = max(told, key=lambda history: history.last)

    def judge(self, step: int, loss: float, norm: float) -> dict[str, Any]:
        """What the row of a spike says beside its loss and norm; nothing for a good step.

        Raises `UserError` on all ranks where the run shall not, or cannot, go on.
        """
        optim, history = self._config.optim, self._crew.history
        if optim.on_spike == "rollback" and self._crew.survives:
            # Written beside one step, not more: a rank that is lost later cannot take it along,
            # and a run that loses ranks goes back to the same one as any other.
            self._saving.finish()
        marks: dict[str, Any] = {}
        self._why, self._target = why_spike(history.norms, loss, norm, optim.spike), None
        if self._why:
            if optim.on_spike == "stop":
                raise UserError(f"step {step}: {self._why}; lower --optim.lr")
            marks["skipped"] = True
            if optim.on_spike == "skip" and history.skipped_in_a_row >= MOST_SKIPPED:
                raise UserError(
                    f"step {step}: {self._why}; the {MOST_SKIPPED} steps before were skipped as "
                    "well: lower --optim.lr"
                )
        if self._why and optim.on_spike == "rollback":
            self._target = marks["rolled_back_to"] = self._find(step)
        history.add({"step": step, "gradient_norm": norm} | marks)
        return marks

    def update(self, step: int, rate: float, scale: float) -> None:
        """End the step that was judged last: by an update, or without one where it is a spike."""
        if self._why:
            self._pass_over(step)
        else:
            self._crew.update(step, rate, scale)

    def _pass_over(self, step: int) -> None:
        crew, comm = self._crew, self._model.comm
        crew.skip(step, goes_back=self._target is not None)
        if self._target is None:
            crew.events.note("skipped", f"step {step}: {self._why}; it is skipped", step, comm)
            return
        # From here to the new backup the ranks have no common state: a loss goes to a checkpoint.
        crew.forget()
        if not checkpoint.restore(self._model, self._saved):
            set_first_weights(self._model, self._config.model.init_from, self._config.seed)
        self._saved = None
        self._model.update.optimizer.steps = step
        crew.back_up(self._model, step)
        where = f"the checkpoint of step {self._target}" if self._target else "its beginning"
        crew.events.note(
            "rollback", f"step {step}: {self._why}; the run goes back to {where}, and on with the "
            f"samples of step {step + 1}", step, comm,
        )  # fmt: skip

    def _find(self, step: int) -> int:
        """The step of the newest checkpoint, 0 for the beginning; rank 0 keeps it."""
        self._saving.finish()
        comm, place = self._model.comm, self._folder.checkpoints if self._folder else None
        self._saved = checkpoint.find_latest(comm, place, note)
        target = int(comm.bcast(np.array([self._saved.facts.step if self._saved else 0]))[0])
        if self._crew.history.in_vain(target) >= MOST_IN_VAIN:
            raise UserError(
                f"step {step}: {self._why}; the run has gone back {MOST_IN_VAIN} times without a "
                "new checkpoint: lower --optim.lr, or take --optim.on_spike skip"
            )
        return target
