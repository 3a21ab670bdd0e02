"""What run, build and verify have in common: progress while working, then the result and the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from surgery.cli.interrupts import interrupted
from surgery.cli.output import (
    INTERRUPTED,
    bug_text,
    print_failure,
    print_json,
    print_text,
    print_warnings,
)
from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from surgery.pipeline import Listener
    from surgery.report import Report


def execute(
    work: Callable[[Listener | None], Report], *, as_json: bool, folder: Callable[[], Path | None]
) -> None:
    """Do the work and print what came of it.

    Args:
        work: Takes the listener for progress (None for silence) and returns the report.
        as_json: Print the report as JSON and nothing else on standard output.
        folder: The output folder, for the summary; asked for after the work.

    Raises:
        typer.Exit: always, with the report's exit code.
    """
    from surgery.report import Failure, Report

    try:
        if as_json:
            with _quiet_stdout():
                report = work(None)
        else:
            from surgery.progress import progress

            with progress() as listener:
                report = work(listener)
    except SurgeryError as error:
        report = Report(exit_code=error.exit_code, failure=Failure.of(error))
    except KeyboardInterrupt:
        report = _interrupted()
    except Exception as error:
        if interrupted():
            report = _interrupted()
        else:
            message, fix = bug_text(error)
            report = Report(exit_code=70, failure=Failure(None, "bug", None, message, None, fix))
    if as_json:
        print_json(report.to_dict())
    elif report.exit_code in (0, 4, 5, 6):
        from surgery.cli.summary import summary

        print_text(summary(report, folder()))
    if not as_json:
        print_warnings(report)
    if report.failure is not None:
        print_failure(report.failure)
    raise typer.Exit(report.exit_code)


def _interrupted() -> Report:
    from surgery.report import Failure, Report

    return Report(exit_code=130, failure=Failure(None, "interrupted", None, INTERRUPTED, None, None))


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what libraries print to standard error, so that the report is alone on standard output."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the process was started without standard output
        yield
        return
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def default_folder(model: Path | None) -> Path | None:
    """Where results go without ``--output``: beside where the command runs, named after the model."""
    return None if model is None else Path(f"{model.stem}.surgery")
