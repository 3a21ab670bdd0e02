"""`surgery new pipeline`: a pipeline file for one model."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import typer

from surgery.cli.output import print_text, print_warnings


def new_pipeline(model: Path, output: Path, target: str | None = None) -> None:
    """Write the file and say what to do with it.

    Args:
        model: The model.
        output: Folder for the file, or the file.
        target: Target to look at.

    Raises:
        typer.Exit: with the code of the trial run, where that failed; the file is there all the same.
    """
    from surgery.cli.execute import _quiet_stdout
    from surgery.new_pipeline import write_pipeline

    with _quiet_stdout():
        path, report = write_pipeline(model, output, target=target)
    if report.failure is None:
        print_text(f"{path}\nrun it: surgery run {quote(str(path))}")
        return
    from surgery.cli.output import print_failure

    print_text(f"{path}\nit does not run yet; edit it after what follows")
    print_warnings(report)
    print_failure(report.failure)
    raise typer.Exit(report.exit_code)
