"""The words that pipeline schedules are written in.

A model is cut into `ranks * chunks` *virtual stages*, numbered from 0 in the order of its layers;
stage s is on pipeline rank s % ranks. A step has `micros` micro-batches, numbered from 0. The
schedule of a rank is a sequence of actions in program order:

- A compute action (`Forward`, `Backward`, `BackwardInput`, `BackwardWeight`) waits for the receive
  of what it needs, then computes.
- A transfer is *started* at its place, and nobody waits there: it goes on while the rank computes.
- The end of the schedule waits for everything.

Messages of one kind between one pair of stages are matched in order. A send may be held up until
its receive has started. On one rank consecutive stages need no transfers.
"""

from dataclasses import dataclass

__all__ = [
    "Action",
    "Backward",
    "BackwardInput",
    "BackwardWeight",
    "Compute",
    "Forward",
    "ReceiveActivation",
    "ReceiveGradient",
    "SendActivation",
    "SendGradient",
    "Transfer",
]


@dataclass(frozen=True, slots=True)
class Forward:
    """Compute the output of `stage`."""

    micro: int
    stage: int

    def __str__(self) -> str:
        return f"forward of micro-batch {self.micro} in stage {self.stage}"


@dataclass(frozen=True, slots=True)
class Backward:
    """Compute the gradients of the input and of the weights of `stage`."""

    micro: int
    stage: int

    def __str__(self) -> str:
        return f"backward of micro-batch {self.micro} in stage {self.stage}"


@dataclass(frozen=True, slots=True)
class BackwardInput:
    """Compute the gradient of the input of `stage`: the half that the stage before waits for."""

    micro: int
    stage: int

    def __str__(self) -> str:
        return f"input gradient of micro-batch {self.micro} in stage {self.stage}"


@dataclass(frozen=True, slots=True)
class BackwardWeight:
    """Compute the gradient of the weights of `stage`: the half that nobody waits for."""

    micro: int
    stage: int

    def __str__(self) -> str:
        return f"weight gradient of micro-batch {self.micro} in stage {self.stage}"


@dataclass(frozen=True, slots=True)
class SendActivation:
    """Start sending the output of `stage` to rank `to`, which holds the next stage."""

    micro: int
    stage: int
    to: int

    def __str__(self) -> str:
        return f"send of micro-batch {self.micro} from stage {self.stage} to rank {self.to}"


@dataclass(frozen=True, slots=True)
class ReceiveActivation:
    """Start receiving the input of `stage` from rank `source`, which holds the stage before."""

    micro: int
    stage: int
    source: int

    def __str__(self) -> str:
        return f"receive of micro-batch {self.micro} for stage {self.stage} from rank {self.source}"


@dataclass(frozen=True, slots=True)
class SendGradient:
    """Start sending the gradient of the input of `stage` to rank `to`, of the stage before."""

    micro: int
    stage: int
    to: int

    def __str__(self) -> str:
        return (
            f"send of the gradient of micro-batch {self.micro} from stage {self.stage} "
            f"to rank {self.to}"
        )


@dataclass(frozen=True, slots=True)
class ReceiveGradient:
    """Start receiving the gradient of the output of `stage` from `source`, of the next stage."""

    micro: int
    stage: int
    source: int

    def __str__(self) -> str:
        return (
            f"receive of the gradient of micro-batch {self.micro} for stage {self.stage} "
            f"from rank {self.source}"
        )


Compute = Forward | Backward | BackwardInput | BackwardWeight
Transfer = SendActivation | ReceiveActivation | SendGradient | ReceiveGradient
Action = Compute | Transfer
