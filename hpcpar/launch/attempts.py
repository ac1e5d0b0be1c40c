"""Whether a job that has ended is started again, and on how many ranks. Pure."""

from hpcpar.errors import EXIT_REQUEUE, EXIT_USER

__all__ = ["Attempts"]


class Attempts:
    """What has come of the jobs so far.

    Only restarts in a row that bring no step newer than all before count, and no more than
    `restarts` of them are made. When as many ranks have failed twice so, one less is tried.

    Attributes: ranks, of the next job; step, the newest of all.

    Args:
        least: never take fewer ranks.
        step: the newest that there is before the first job.
    """

    def __init__(self, ranks: int, restarts: int, least: int, step: int = 0) -> None:
        self.ranks, self.step = ranks, step
        self._most, self._restarts, self._least = ranks, restarts, least
        self._made = 0  # restarts since there was a new step
        self._failures = 0  # of this many ranks, in a row, without a new step

    def ended(self, status: int, step: int) -> bool:
        """A job has ended after this step; whether it is to be started again."""
        if status in (0, EXIT_REQUEUE) or (status == EXIT_USER and self.ranks == self._most):
            return False
        if step > self.step:
            self.step, self._made, self._failures = step, 0, 0
        else:
            self._failures += 1
        if self._made == self._restarts:
            return False
        self._made += 1
        # There may be no layout for fewer ranks than were asked for: that is no mistake.
        if (self._failures == 2 or status == EXIT_USER) and self.ranks > self._least:
            self.ranks, self._failures = self.ranks - 1, 0
        return True

    def grow(self) -> None:
        """As many ranks as at first are tried again."""
        self.ranks, self._failures = self._most, 0

    def limit(self, ranks: int) -> bool:
        """There is room for so many; whether that is enough."""
        if ranks < self.ranks:
            self.ranks, self._failures = ranks, 0
        return self.ranks >= self._least
