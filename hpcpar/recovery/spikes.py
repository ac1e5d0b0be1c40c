"""Which steps are spikes: from losses and gradient norms alone, so the same on all ranks. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from statistics import median
from typing import Any

__all__ = ["FEWEST", "MOST_IN_VAIN", "MOST_SKIPPED", "WINDOW", "History", "why_spike"]

WINDOW = 32  # applied steps whose norms are looked at
FEWEST = 8  # of them; before, only numbers that are not finite are spikes
MOST_IN_VAIN = 3  # rollbacks without a new checkpoint in between
MOST_SKIPPED = 20  # steps in a row


def why_spike(norms: Sequence[float], loss: float, norm: float, factor: float) -> str:
    """Why a step is a spike, in words; "" if it is none.

    Args:
        norms: of the last applied steps, at most WINDOW.
        factor: of their median; 0 for no limit.
    """
    if not (isfinite(loss) and isfinite(norm)):
        return f"loss {loss}, gradient norm {norm}"
    if factor and len(norms) >= FEWEST and norm > factor * (middle := median(norms)):
        return (
            f"gradient norm {norm:.4g} is above {factor:g} times {middle:.4g}, the median of the "
            f"last {len(norms)} applied steps"
        )
    return ""


class History:
    """What has to be known of the steps before, in the order of the steps.

    It comes from the rows of metrics.jsonl, or from step after step: that is the same.
    """

    def __init__(
        self,
        norms: Iterable[Sequence[Any]] = (),
        rollbacks: Iterable[Sequence[int]] = (),
        skipped: Iterable[int] = (),
    ) -> None:
        self._norms = [(int(step), float(norm)) for step, norm in norms]
        self._rollbacks = [(int(step), int(target)) for step, target in rollbacks]
        self._skipped = [int(step) for step in skipped]

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "History":
        """Of the rows of metrics.jsonl."""
        found = cls()
        for row in rows:
            found.add(row)
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """One more step, as its row tells it."""
        # One more than is looked at: the ranks that are left may stand one step before.
        if "rolled_back_to" in row:
            self._rollbacks.append((row["step"], row["rolled_back_to"]))
            del self._rollbacks[: -MOST_IN_VAIN - 1]
        elif row.get("skipped"):
            self._skipped.append(row["step"])
            del self._skipped[: -MOST_SKIPPED - 1]
        else:
            self._norms.append((row["step"], row["gradient_norm"]))
            del self._norms[: -WINDOW - 1]

    def until(self, step: int) -> "History":
        """Without what comes after a step."""
        return History(
            [entry for entry in self._norms if entry[0] <= step],
            [entry for entry in self._rollbacks if entry[0] <= step],
            [entry for entry in self._skipped if entry <= step],
        )

    @property
    def last(self) -> int:
        """The last step that it knows something of."""
        return max([0, *self._skipped[-1:], *self._applied[-1:], *self._returns[-1:]])

    @property
    def skipped_in_a_row(self) -> int:
        """Steps, at most MOST_SKIPPED + 1, since one was applied or the run went back."""
        before = max([0, *self._applied[-1:], *self._returns[-1:]])
        return sum(step > before for step in self._skipped)

    @property
    def _applied(self) -> list[int]:
        return [step for step, _ in self._norms]

    @property
    def _returns(self) -> list[int]:
        return [step for step, _ in self._rollbacks]

    @property
    def norms(self) -> list[float]:
        """Of the last applied steps, at most WINDOW."""
        return [norm for _, norm in self._norms[-WINDOW:]]

    def in_vain(self, target: int) -> int:
        """Rollbacks in a row before one to `target`, without a new checkpoint in between.

        A checkpoint that was written after a rollback, but before another step, is not new.
        """
        count = 0
        for step, before in reversed(self._rollbacks):
            if target > step:
                break
            count, target = count + 1, before
        return count

    def to_json(self) -> str:
        """All of it."""
        return json.dumps([self._norms, self._rollbacks, self._skipped])

    @classmethod
    def from_json(cls, text: str) -> "History":
        """What `to_json` gave."""
        return cls(*json.loads(text))
