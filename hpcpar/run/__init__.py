"""What a run shows and leaves behind: its folder, its progress, its picture."""

from hpcpar.run.folder import RunConfig, RunFolder
from hpcpar.run.report import Report

__all__ = ["Report", "RunConfig", "RunFolder"]
