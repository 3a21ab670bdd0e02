"""How a run is shown while it works: live on a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from surgery.pipeline import Event, Listener, LogLine, StageFinished, StageProgress, StageStarted
from surgery.text import fitted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

SUMMARY = 22
"""Column where a plain line begins to say what a stage did."""


@contextmanager
def progress(console: Console | None = None) -> Iterator[Listener]:
    """What shows the events of a run that happens inside the ``with``.

    Args:
        console: Where to draw; None takes standard output if that is a terminal, and plain lines otherwise.
    """
    if console is None and not sys.stdout.isatty():
        yield plain_line
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    display = LiveDisplay(console or RichConsole(highlight=False))
    try:
        with Live(display, console=display.console, refresh_per_second=10, transient=True):
            yield display
    finally:
        display.print_table()


def plain_line(event: Event) -> None:
    """One line for each stage that has ended; nothing for other events."""
    if isinstance(event, StageFinished):
        try:
            line = f"{event.name:<10} {event.seconds:7.1f} s  {event.summary}"
            sys.stdout.write(f"{fitted(line, SUMMARY)}\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has gone away (``| head``), which is no reason to stop the work
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LiveDisplay:
    """The stages that have ended, and the one that runs with a spinner, its time and what it last said.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        from rich.spinner import Spinner

        self.console = console
        self._spinner = Spinner("dots")
        self._done: list[StageFinished] = []
        self._running: StageStarted | None = None
        self._started = time.monotonic()
        self._message = ""
        self._fraction: float | None = None

    def __call__(self, event: Event) -> None:
        """Take an event; drawing happens when the display is refreshed."""
        if isinstance(event, StageStarted):
            self._running, self._started = event, time.monotonic()
            self._message, self._fraction = "", None
        elif isinstance(event, StageProgress):
            self._message, self._fraction = event.message, event.fraction
        elif isinstance(event, LogLine):
            self._message = (event.text.strip().splitlines() or [""])[0]
        else:
            self._done.append(event)
            self._running = None

    def __rich__(self) -> RenderableType:
        """The stages so far and the one that runs."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(width=1)
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for event in self._done:
            grid.add_row(Text("✓", "green"), event.name, f"{event.seconds:.1f} s", Text(event.summary))
        if self._running is not None:
            elapsed = time.monotonic() - self._started
            done = "" if self._fraction is None else f"{self._fraction:.0%} "
            place = f"{self._running.name} ({self._running.index}/{self._running.total})"
            grid.add_row(self._spinner, place, f"{elapsed:.1f} s", Text(done + self._message, "dim"))
        return grid

    def print_table(self) -> None:
        """Print what stays: each stage, its wall time in seconds, what it did."""
        if self._done or self._running is not None:
            self.console.print(self._table())

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("stage")
        table.add_column("seconds", justify="right")
        table.add_column("what it did", overflow="fold")
        for event in self._done:
            table.add_row(event.name, f"{event.seconds:.1f}", Text(event.summary))
        if self._running is not None:  # it raised
            elapsed = time.monotonic() - self._started
            table.add_row(self._running.name, f"{elapsed:.1f}", Text("failed", "red"))
        return table
