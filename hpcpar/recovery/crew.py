"""The ranks of a run: they vote on every step, and where one is lost, those that are left go on.

`--recovery shrink` needs an MPI that outlives a rank (Open MPI 5 with ULFM). What happens then:

1. In its next wait for others every rank has a `LostRankError` raised (comm/lost.py).
2. They end the vote that some may wait in, so that all stand after the same step, and shrink the
   communicator to those that are left. Ranks that the layout has no place for are spare.
3. Model and mesh are made anew on these, and the state of that step is put together from what they
   have: their own parts, and those of lost ranks in the backup (backup.py, rescue.py).

The backup of a step stays until the ranks that are left have the state, and have voted.
"""

import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from mpi4py import MPI

from hpcpar.comm import Communicator
from hpcpar.comm.ending import be_lost
from hpcpar.comm.lost import give_up, lost_ranks, shrink
from hpcpar.comm.vote import HERE, veto, vote
from hpcpar.data import Course
from hpcpar.errors import AuditError, LostRankError, StoppedError, UserError
from hpcpar.parallel.config import ParallelConfig
from hpcpar.parallel.state import updated
from hpcpar.recovery.backup import Backup
from hpcpar.recovery.fewer import fewer
from hpcpar.recovery.needs import check_needs
from hpcpar.recovery.rescue import last_step
from hpcpar.recovery.sentences import began, dealt, lost, stopped
from hpcpar.recovery.standing import Standing
from hpcpar.recovery.stop import StopSignals

if TYPE_CHECKING:
    from hpcpar.config import Config
    from hpcpar.parallel import ParallelModel
    from hpcpar.run import RunFolder

__all__ = ["Crew"]


MOST_LOOKS = 64


class _BalancedError(Exception):
    """Raised on all ranks that train: they begin again, with other speeds."""


class Crew(Standing):
    """The ranks of a run.

    Attributes: comm, those that train, None on a spare rank; parallel, their layout; stopping,
    whether all have agreed to stop after this step; looks, how many in a row have to ask for a move
    of work (balancer.py); those of `Standing`.
    """

    FINISHED, GO_ON, UPDATE = 2, 4, 8  # what all may agree on

    def __init__(self, config: "Config", comm: Communicator) -> None:
        """Collective. Raises `UserError` where this MPI cannot do what --recovery asks for."""
        job = check_needs(config.recovery, comm)
        super().__init__(comm, job if config.recovery == "relaunch" else None)
        self._config, self._everybody = config, comm
        self.comm: Communicator | None = comm
        self._why = "shrink"  # they begin again
        self.parallel: ParallelConfig = config.parallel
        self._before = config.parallel.filled(comm.size)
        self.stopping = False
        self.looks = 2
        self.survives = config.recovery == "shrink" and comm.size > 1
        self._backup: Backup | None = None  # of the model
        self._agreed = False  # whether all have voted since it was made
        self._voted = False  # in vain, since the last loss
        self._lost: set[int] = set()  # in MPI_COMM_WORLD
        self._signals = StopSignals()
        self._launched = job is not None  # and lost ranks can be started again
        self._regrows = False  # all agree to stop for that

    def work(self, run: Callable[[Communicator], None]) -> None:
        """`run` it, again on the ranks that are left after each loss, until it has come to its end.

        Collective; every rank returns when all have come there. Raises `StoppedError` when a
        signal has asked any of them to stop (stop.py), and the run has done so.
        """
        with self._signals:
            self._work(run)

    def _work(self, run: Callable[[Communicator], None]) -> None:
        while True:
            if self._why == "balance":
                # The model before is a circle of references, of which Python sees no weight.
                gc.collect()
            try:
                if self.comm is None:
                    self._stand_by()
                else:
                    run(self.comm)
                    self._vote(self.FINISHED)
                if self._memory is not None:
                    self._memory.done()
                return
            except (UserError, StoppedError) as error:  # all ranks that train have it
                asked = isinstance(error, StoppedError)
                kind = ("regrow" if self._regrows else "stopped") if asked else "failed"
                self.events.add(kind, str(error), self.step)
                if asked:
                    self._say(error)
                self._part()
                raise
            except _BalancedError as error:
                self._deal_anew(*error.args)
            except AuditError as error:
                if not self.survives or len(error.ranks) >= self._everybody.size:
                    self.events.add("failed", str(error), self.step)
                    self._part()
                    raise
                self._dismiss(error)
            except LostRankError:
                if not self.survives:
                    raise
                self._regroup()

    def begin(self, folder: "RunFolder | None", start: int) -> None:
        """The run begins, or goes on, after `start`; `folder` on one rank. Collective."""
        assert self.comm is not None
        kind = (
            self._why if self.rescued and not self._remembered else "resumed" if start else "start"
        )
        self.events.open(folder)
        memory = self.rescued and self._remembered
        self.events.add(kind, began(self.comm.size, self.comm.nodes, start, memory), start)

    def back_up(self, model: "ParallelModel", step: int) -> None:
        """From now on the state of `model`, which stands after `step`, is backed up. Collective."""
        self._model, self._agreed = model, False
        self._backup = Backup(model, self._config.optim) if self.survives else None
        if self._saved is None:
            self.step = step
        if self._memory is not None:
            self._memory.open(model)
            self._remember(step)
            self._memory.forget_others()

    def update(self, step: int, rate: float, scale: float) -> None:
        """The update of a step, after all have voted that they came so far. Collective."""
        backup = self._backup
        if backup is not None:
            backup.exchange()
        self._pass(step)
        # From here to the end of both updates nobody waits for anybody.
        if backup is not None:
            backup.update(rate, scale)
        assert self._model is not None
        self._model.update.step(rate, scale)
        self._remember(step)

    def balance(self, speeds: tuple[float, ...], step: int) -> None:
        """Begin again after this step, with leaves and layers dealt by these speeds; no return."""
        raise _BalancedError(speeds, step)

    def _deal_anew(self, speeds: tuple[float, ...], step: int) -> None:
        self.looks = min(2 * self.looks, MOST_LOOKS)
        assert self._model is not None and self.comm is not None
        self.events.note("balance", dealt(speeds), step, self.comm)
        backup, own = self._backup, list(updated(self._model))
        self._saved, self._giving = own if backup is None else backup.parts(), self.comm
        self.parallel, self._why = replace(self.parallel, speeds=speeds), "balance"
        self._remembered = False
        self.events.close()

    def stop(self, step: int) -> None:
        """Raises `StoppedError` where all have agreed to stop after this step, and more are left.

        Its checkpoint must have been begun: the writer finishes that, then it is told.
        """
        if self.stopping and step < self._config.steps:
            wanted = sorted(self._lost) if self._regrows else []
            raise StoppedError(stopped(step, self._config.run.dir, wanted))

    def skip(self, step: int, goes_back: bool) -> None:
        """The end of a step that has no update, after the same vote. Collective.

        Args:
            goes_back: another state follows, by `back_up`.
        """
        self._pass(step)
        assert self._model is not None
        self._model.update.optimizer.steps = step
        if self._backup is not None and self._backup.copies is not None:
            self._backup.copies.optimizer.steps = step
        if not goes_back:
            self._remember(step)

    def forget(self) -> None:
        """The state of the last step is about to be overwritten, until the next `back_up`."""
        self._backup, self._agreed = None, False

    def _pass(self, step: int) -> None:
        every = self._config.checkpoint.every
        self._regrows = self._launched and bool(self._lost) and every > 0 and step % every == 0
        self._vote(self.UPDATE if self._regrows else self.GO_ON | self.UPDATE)
        self._saved, self._agreed, self.step = None, True, step

    def _vote(self, answers: int) -> int:
        if self._signals.came or self.stopping:
            answers &= ~self.GO_ON
        try:
            agreed = vote(self._everybody, answers | HERE, self.survives, self.comm is None)
        except LostRankError:
            self._voted = True
            raise
        if agreed & self.UPDATE:
            self.stopping = not agreed & self.GO_ON
        return agreed

    def _stand_by(self) -> None:
        """A spare rank gives what it has, and votes with the others until they are at the end."""
        self._rescue(None)
        self.events.open(None)
        everything = self.FINISHED | self.GO_ON | self.UPDATE
        while not (agreed := self._vote(everything)) & self.FINISHED:
            if agreed & self.UPDATE:
                self._saved = None

    def _dismiss(self, error: AuditError) -> None:
        """Go on without ranks that compute wrongly, as without lost ones."""
        with contextlib.suppress(LostRankError):  # another one: all who are left regroup anyway
            self._vote(self.GO_ON)  # so that all know why
        self.events.close()
        self.events.note("dismissed", f"{error}; it is dismissed", self.step, self._everybody)
        self._launched = False  # that machine is not wanted back
        if MPI.COMM_WORLD.Get_rank() in error.ranks:
            be_lost()
        give_up(self._everybody, "an audit")
        self._regroup()

    def part(self, text: str) -> NoReturn:
        """Raises `StoppedError`, which is told; for runs that this crew does not `work`."""
        error = StoppedError(text)
        self.events.add("stopped", text, self.step)
        self._say(error)
        raise error

    def _say(self, error: Exception) -> None:
        if self.comm is not None and self.comm.rank == 0:
            print(f"hpcpar: {error}", file=sys.stderr, flush=True)

    def _part(self) -> None:
        """The ranks that train are at an end, and let the spare ones go."""
        with contextlib.suppress(LostRankError):  # of whom nothing is needed any more
            self._vote(self.FINISHED)

    def _regroup(self) -> None:
        """The ranks that are left find each other, also when others are lost meanwhile."""
        self.events.close()
        if self._agreed and self._backup is not None:
            self._saved = self._backup.parts()
        self._backup, self._model, self._agreed = None, None, False
        mpi, timeout = self._everybody.mpi, self._config.timeout
        while True:
            if not self._voted:
                veto(mpi, timeout)
            mpi, self._voted = shrink(mpi, timeout), False
            try:
                device = self._config.device
                self._everybody = Communicator(mpi, device=device, timeout=timeout)
                self._settle()
                return
            except LostRankError:
                continue

    def _settle(self) -> None:
        """Who does what now."""
        self._giving, self._why = self._everybody, "shrink"
        everybody = self._everybody
        mine = None if self._saved is None else self.step
        told = {self.step: [self.rows.get(self.step, {}), self.course.before(self.step)]}
        step, found = last_step(everybody, mine, told)
        self.step = step or 0
        if found is not None:
            self.rows[self.step], self.course = found[0], Course(self.step, found[1])
            self._saved = self._saved or []
        self.parallel, count = fewer(self._before, everybody.size, self._config.reproducible)
        self.comm = everybody
        if count < everybody.size:
            self.comm = everybody.split(0 if everybody.rank < count else None)
        news = [rank for rank in lost_ranks(MPI.COMM_WORLD) if rank not in self._lost]
        self._lost.update(news)
        since = f"after step {self.step}" if self.rescued else "from the newest checkpoint"
        text = lost(news, count, everybody.size - count, since)
        self.events.note("lost", text, self.step, everybody)
