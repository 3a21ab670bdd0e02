"""How a run is shown: live on a terminal, one plain line per stage elsewhere, and a summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from surgery.pipeline import Event, LogLine, StageFinished, StageProgress, StageStarted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from surgery.report import Report, StageEntry

_KINDS = {
    "onnx": "portable ONNX, plugin nodes with bodies that ONNX Runtime runs",
    "onnx_target": "ONNX for the target's parser",
    "engine": "TensorRT engine",
    "pre": "the preprocessing that was cut off",
    "log": "TensorRT's log",
    "report_html": "report for people",
}


class Progress(Protocol):
    """Takes the events of a run; `finish` shows what is left to show once the report is there."""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        ...

    def finish(self, report: Report) -> None:
        """Show the end of the stages."""
        ...


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[Progress]:
    """What shows the events of a run that happens inside the ``with``.

    Args:
        console: Where to draw; None takes standard output if that is a terminal, and plain lines otherwise.
    """
    if console is None and not sys.stdout.isatty():
        yield PlainProgress()
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    progress = LiveProgress(console or RichConsole(highlight=False))
    with Live(progress, console=progress.console, refresh_per_second=10, transient=True):
        yield progress


class PlainProgress:
    """One line for each stage that has ended."""

    def __call__(self, event: Event) -> None:
        """Print a finished stage."""
        if isinstance(event, StageFinished):
            _print(_line(event.name, event.seconds, event.summary))

    def finish(self, report: Report) -> None:
        """Print the stage that failed; the others have their lines."""
        if report.failure is not None and report.stages and report.stages[-1].name == report.failure.stage:
            last = report.stages[-1]
            _print(_line(last.name, last.seconds, "failed"))


class LiveProgress:
    """The stage that runs, with a spinner, the time it has taken and what it last said.

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

        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=1)
        grid.add_column()
        grid.add_column(justify="right")
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for event in self._done:
            grid.add_row(Text("✓", "green"), event.name, f"{event.seconds:.1f} s", Text(event.summary))
        if self._running is not None:
            elapsed = time.monotonic() - self._started
            done = "" if self._fraction is None else f"{self._fraction:.0%} "
            place = f"{self._running.name} ({self._running.index}/{self._running.total})"
            grid.add_row(self._spinner, place, f"{elapsed:.1f} s", Text(done + self._message, "dim"))
        return grid

    def finish(self, report: Report) -> None:
        """Print the table of stages, which stays."""
        if report.stages:
            self.console.print(stage_table(report.stages))


def stage_table(stages: list[StageEntry]) -> Table:
    """The stages that ran: name, wall time in seconds, what each did."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("what it did", overflow="fold")
    for stage in stages:
        failed = stage.summary.startswith("failed:")
        table.add_row(
            stage.name,
            f"{stage.seconds:.1f}",
            Text(stage.summary, "red" if failed else ""),
            end_section=failed,
        )
    return table


def print_summary(report: Report, folder: Path | None) -> None:
    """Status, target, verification, warnings, and the files written; to standard output.

    Args:
        report: The report of the run.
        folder: Output folder that the artifacts' paths are relative to.
    """
    for warning in report.warnings:
        _print(f"warning: {warning}")
    if not report.ok:
        return
    installed = "" if report.target.get("installed") else " (not installed here)"
    _print(f"status: {report.status}")
    if report.target:
        _print(f"target: {report.target.get('name')}{installed}")
    for subject, result in report.verification.items():
        _print(f"verification of the {subject}: {_verdict(result)}")
    written = {k: a for k, a in report.artifacts.items() if a is not None}
    if not written or folder is None:
        _print("wrote: nothing")
        return
    paths = {k: str(folder / a["path"]) for k, a in written.items()}
    paths["report"] = str(folder / "report.json")
    width = max(map(len, paths.values()))
    _print("wrote:")
    for kind, path in paths.items():
        _print(f"  {path:<{width}}  {_KINDS.get(kind, 'report for programs')}")


def _verdict(result: dict[str, object]) -> str:
    cases = result.get("cases")
    text = str(result.get("status"))
    return f"{text} on {len(cases)} inputs" if isinstance(cases, list) and cases else text


def _line(name: str, seconds: float, summary: str) -> str:
    return f"{name:<10} {seconds:7.1f} s  {summary}"


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
