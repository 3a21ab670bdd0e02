"""The record of a run, for programs (JSON) and for the command line."""

from surgery.report.model import CutEntry, Edit, Failure, IoChange, Report, StageEntry

__all__ = ["CutEntry", "Edit", "Failure", "IoChange", "Report", "StageEntry"]
