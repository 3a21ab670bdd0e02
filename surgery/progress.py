"""How a run is shown while it works: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
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

EVERY = 30.0
"""Seconds without a plain line after which there is one about the stage that runs."""


@contextmanager
def progress(console: Console | None = None) -> Iterator[Listener]:
    """What shows the events of a run that happens inside the ``with``.

    Args:
        console: Where to draw; None takes standard output if that is a terminal, and plain lines otherwise.
    """
    if console is None and not sys.stdout.isatty():
        with PlainLines() as lines:
            yield lines
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    display = LiveDisplay(console or RichConsole(highlight=False))
    try:
        with Live(display, console=display.console, refresh_per_second=10, transient=True):
            yield display
    finally:
        display.print_table()


class PlainLines:
    """One line for each stage that has ended, and one every now and then for a stage that takes long.

    Args:
        every: Seconds without a line after which there is one about what is going on.
    """

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._running: str | None = "load"  # until the first stage
        self._message = ""
        self._started = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        # A thread, for stages say nothing while ONNX Runtime or TensorRT works.
        self._thread = threading.Thread(target=self._watch, name="surgery-progress", daemon=True)

    def __enter__(self) -> PlainLines:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            if isinstance(event, StageStarted):
                self._running, self._message, self._started = event.name, "", time.monotonic()
            elif isinstance(event, StageProgress):
                done = "" if event.fraction is None else f"{event.fraction:.0%} "
                self._message = done + event.message
            elif isinstance(event, StageFinished):
                self._running = None
                self._write(event.name, event.seconds, event.summary)

    def _watch(self) -> None:
        while not self._over.wait(max(0.01, self._last + self._every - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now - self._last < self._every:
                    continue
                if self._running is None:
                    self._last = now
                else:
                    message = self._message or "working"
                    self._write(self._running, now - self._started, f"... {message}")

    def _write(self, name: str, seconds: float, text: str) -> None:
        self._last = time.monotonic()
        try:
            sys.stdout.write(f"{fitted(f'{name:<10} {seconds:7.1f} s  {text}', SUMMARY)}\n")
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
