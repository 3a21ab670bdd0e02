"""The command line: parsing and printing only."""

from surgery.cli.app import main

__all__ = ["main"]
