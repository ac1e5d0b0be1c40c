"""A lost rank loses no step, and a wrong bit names its rank: what a run does about such ranks."""

from hpcpar.recovery.audit import Audit
from hpcpar.recovery.crew import Crew

__all__ = ["Audit", "Crew"]
