"""What a worker asks of the servers in a training: weights, updates, a meeting."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.comm import agree
from hpcpar.comm.mailbox import Mailbox
from hpcpar.optim import OptimConfig, clip_scale
from hpcpar.parallel.run_roots import RunRoots
from hpcpar.sync.config import SyncConfig
from hpcpar.sync.key_range import on_the_wire
from hpcpar.sync.keys import Keys, joined, put, spread, taken
from hpcpar.sync.own_gradient import own_gradient, own_norm
from hpcpar.sync.roles import Roles
from hpcpar.sync.serving import drive
from hpcpar.sync.shard import Payload
from hpcpar.sync.worker import Waiting, Worker

if TYPE_CHECKING:
    from hpcpar.data import Part
    from hpcpar.parallel import ParallelModel

__all__ = ["Client"]


class Client:
    """A worker's, for a model that it trains with the others.

    >>> client.pull(step)
    >>> client.push(step, part, indices)
    >>> client.meet(step)       # all workers stand after this step, with the same weights

    Attributes: pulls, how many were answered, each checked against the staleness allowed; bytes,
    of all letters that this rank has posted.
    """

    def __init__(
        self, model: "ParallelModel", mailbox: Mailbox, roles: Roles, sync: SyncConfig,
        optim: OptimConfig,
    ) -> None:  # fmt: skip
        self._model, self._mailbox, self._roles, self._sync = model, mailbox, roles, sync
        self._clip, self._ordered = optim.clip, sync.mode != "asp"
        self._keys = Keys(model.model, roles.servers, roles.workers)
        staleness = sync.staleness if self._ordered else None
        self._worker = Worker(mailbox.rank, roles, staleness, mailbox.post)
        self._rank = mailbox.rank
        self._told = 0  # updates that the first worker has been told of

    @property
    def pulls(self) -> int:
        """Answered, and checked."""
        return self._worker.pulls

    @property
    def bytes(self) -> int:
        """Posted by this rank."""
        return self._mailbox.posted

    def load(self, step: int) -> None:
        """This worker's slice of the state after a step goes to the servers."""
        weights = joined(self._keys.slices(self._rank), self._model.weights.flat)
        own = [weights, *self._model.update.optimizer.flat_state.values()]
        servers = range(self._roles.servers)
        arrays = [[taken(flat, self._places(number)) for flat in own] for number in servers]
        self._told = clock = step if self._ordered else step * self._roles.workers
        self._worker.load(clock, [{"worker": self._rank}] * self._roles.servers, arrays)

    def pull(self, step: int, exact: bool = False) -> list[dict[str, Any]]:
        """Weights to compute a step with; on the first worker, the rows of updates since before.

        Args:
            exact: with all updates before this step, whatever the staleness.
        """
        since = self._told if self._rank == 0 else None
        with self._model.timeline.on("wait", "pull"):
            _, arrays = self._drive(self._worker.pull(step, since, 0 if exact else None))
        for number, (weights,) in enumerate(arrays):
            spread(self._keys.weights[number], self._model.comm.device.asarray(weights),
                   self._model.weights.flat)  # fmt: skip
        news, self._worker.news = self._worker.news, []
        self._told = self._worker.told
        return news

    def push(self, step: int, part: "Part", indices: np.ndarray) -> None:
        """Compute this worker's leaves of a step, and post what they add to the gradient."""
        roots, losses = self._model.roots(part, indices)
        own = self._model.own_leaves
        words: dict[str, Any] = {"leaves": [own.start, own.stop]}
        first = words | {"losses": sorted(losses.items())}
        if self._rank == 0:
            first["since"] = self._told  # what was told up to it may be forgotten
        if not self._ordered:
            norm, scale = self._clipped(roots, len(losses))
            words |= {"scale": scale}
            first |= words | {"norm": norm}
        count, payloads = len(roots[0].roots), []
        flats = [dict(enumerate(total.roots[i] for total in roots)) for i in range(count)]
        for number, stretches in enumerate(self._keys.gradients):
            sent = [on_the_wire(joined(stretches, flat), self._sync.wire) for flat in flats]
            payloads.append(Payload(words if number else first, sent))
        with self._model.timeline.on("wait", "push"):
            self._drive(self._worker.push(step, payloads))

    def meet(self, step: int) -> list[dict[str, Any]]:
        """All workers have pushed this step, and have the weights after it. Collective."""
        with self._model.timeline.on("wait", "settle"):
            self._drive(self._worker.settle())
        self._model.comm.barrier()
        return self.pull(step + 1, exact=True)

    def fetch_state(self, step: int) -> None:
        """The optimizer's state of this worker's slice, after a meeting."""
        optimizer = self._model.update.optimizer
        asked = [{"worker": self._rank}] * self._roles.servers
        found = self._drive(self._worker.fetch(asked))
        for number, arrays in enumerate(found):
            for flat, given in zip(optimizer.flat_state.values(), arrays, strict=True):
                put(flat, self._places(number), self._model.comm.device.asarray(given))
        optimizer.steps = step

    def end(self, stopped: bool = False) -> set[int]:
        """Servers may go; those that were lost, which all that are left know now. Collective."""
        known = sorted(self._worker.lost)
        for text in agree(self._model.comm, json.dumps(known)):
            self._worker.learn(json.loads(text or "[]"))
        self._worker.end(stopped)
        self._mailbox.flush()
        return self._worker.lost

    def _places(self, server: int) -> list[slice]:
        """Of what a server has, in a flat array of this worker's slices."""
        return [there for _, there in self._keys.common(server, self._rank)]

    def _drive(self, waiting: Waiting) -> Any:
        comm = self._model.comm
        return drive(self._worker, self._mailbox, waiting, comm.timeout, comm.progress)

    def _clipped(self, roots: Sequence[RunRoots], micros: int) -> tuple[float, float]:
        """Norm of this worker's gradient by itself, and what it is to be multiplied with."""
        if not micros:
            return 0.0, 0.0
        factor = self._model.micros_a_step / micros
        norm = own_norm(self._model, own_gradient(self._model, roots)) * factor
        return norm, factor * clip_scale(norm, self._clip)
