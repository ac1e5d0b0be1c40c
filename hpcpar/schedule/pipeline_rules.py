"""The checker's rules: what each action of a pipeline needs, and what it leaves behind."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
)

__all__ = ["Rule", "Stage", "rules_of", "what_is_wrong"]

TO, SOURCE = attrgetter("to"), attrgetter("source")

# What is wrong when the first, or the second thing that an action needs is not there.
MISSING: dict[type[Action], tuple[str, ...]] = {
    Forward: ("no receive of its input was started before",),
    Backward: ("its forward does not come before", "no receive of its gradient was started before"),
    BackwardWeight: ("its input gradient does not come before",),
    SendActivation: ("its forward does not come before",),
    ReceiveActivation: (),
    SendGradient: ("its backward does not come before",),
    ReceiveGradient: (),
}
MISSING[BackwardInput] = MISSING[Backward]
NEIGHBOUR = "the neighbouring stage on this rank does not come before"

Found = dict[int, int]  # micro-batch -> number of its action, in the order in which they come


@dataclass(slots=True)
class Stage:
    """What has been found of one virtual stage."""

    forwards: Found = field(default_factory=dict)
    backwards: Found = field(default_factory=dict)  # of the input, alone or with the weights
    weights: Found = field(default_factory=dict)
    sent: Found = field(default_factory=dict)  # activations
    received: Found = field(default_factory=dict)
    returned: Found = field(default_factory=dict)  # gradients
    regained: Found = field(default_factory=dict)


class Rule(NamedTuple):
    """For the actions of one kind in one stage."""

    found: Found  # where it is noted
    twin: Found | None  # where it is noted too
    needs: Container[int]  # the micro-batches that are ready
    also: Container[int] | None
    # `first + turn * micro` is the number of the message that it waits for (turn 1), or ~number of
    # the one that it sends (turn -1).
    first: int = 0
    turn: int = 0
    peer: int = 0
    peer_of: Callable[[Any], int] | None = None


def rules_of(
    rank: int, ranks: int, stages: list[Stage], micros: int
) -> dict[type[Action], dict[int, Rule]]:
    """The rules of a rank, by kind of action and stage; an action without a rule is not its own.

    Messages are numbered: activation m from stage s to s + 1 is 2 s micros + m, its gradient on the
    way back (2 s + 1) micros + m.
    """
    rules: dict[type[Action], dict[int, Rule]] = {kind: {} for kind in MISSING}
    every = range(micros)
    for s in range(rank, len(stages), ranks):
        here, first, last = stages[s], s == 0, s == len(stages) - 1
        inputs: Container[int] = every if first else stages[s - 1].forwards
        gradients: Container[int] | None = None if last else stages[s + 1].backwards
        arrives = returns = (0, 0)
        if ranks > 1 and not first:
            number, peer = 2 * (s - 1) * micros, (s - 1) % ranks
            inputs, arrives = here.received, (number, 1)
            rules[ReceiveActivation][s] = Rule(
                here.received, None, every, None, 0, 0, peer, SOURCE
            )  # fmt: skip
            rules[SendGradient][s] = Rule(
                here.returned, None, here.backwards, None, ~(number + micros), -1, peer, TO
            )
        if ranks > 1 and not last:
            number, peer = 2 * s * micros, (s + 1) % ranks
            gradients, returns = here.regained, (number + micros, 1)
            rules[ReceiveGradient][s] = Rule(
                here.regained, None, every, None, 0, 0, peer, SOURCE
            )  # fmt: skip
            rules[SendActivation][s] = Rule(
                here.sent, None, here.forwards, None, ~number, -1, peer, TO
            )  # fmt: skip
        rules[Forward][s] = Rule(here.forwards, None, inputs, None, *arrives)
        rules[Backward][s] = Rule(
            here.backwards, here.weights, here.forwards, gradients, *returns
        )  # fmt: skip
        rules[BackwardInput][s] = Rule(here.backwards, None, here.forwards, gradients, *returns)
        rules[BackwardWeight][s] = Rule(here.weights, None, here.backwards, None)
    return rules


def what_is_wrong(action: Action, rule: Rule, ranks: int, micros: int) -> str:
    """Why the rule does not let the action happen."""
    if action.micro not in range(micros):
        return f"there are {micros} micro-batches"
    if action.micro in rule.found:
        return "it comes a second time"
    words = MISSING[type(action)][action.micro in rule.needs]
    return NEIGHBOUR if ranks == 1 and "receive" in words else words
