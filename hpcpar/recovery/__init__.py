"""A lost rank loses no step: what a run does when a rank is gone."""

from hpcpar.recovery.crew import Crew

__all__ = ["Crew"]
