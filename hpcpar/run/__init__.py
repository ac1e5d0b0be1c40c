"""What a run shows and leaves behind: its folder, its progress, its picture."""

from hpcpar.run.folder import RunConfig, RunFolder, replayable
from hpcpar.run.report import Report
from hpcpar.run.trace import Trace

__all__ = ["Report", "RunConfig", "RunFolder", "Trace", "replayable"]
