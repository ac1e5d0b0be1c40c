"""A lost rank loses no step, and a wrong bit names its rank: what a run does about such ranks.

And about such steps: `loss_guard`; and about slow ranks: `balancer`. `monitor` and `events` tell
what happens.
"""

from hpcpar.recovery.audit import Audit
from hpcpar.recovery.balancer import Balancer
from hpcpar.recovery.crew import Crew
from hpcpar.recovery.loss_guard import LossGuard
from hpcpar.recovery.monitor import Monitor

__all__ = ["Audit", "Balancer", "Crew", "LossGuard", "Monitor"]
