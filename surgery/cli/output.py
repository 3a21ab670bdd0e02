"""Writing to the terminal: results to standard output, errors to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from surgery.text import LONGEST, fitted

if TYPE_CHECKING:
    from surgery.report import Failure, Report


WIDTH = 100
"""Characters of a line of text."""

NARROW = 40
"""Characters that the last column of a table has at least, where its rows are broken."""

INTERRUPTED = "interrupted; what an earlier run left in the output folder is still there"


def bug_text(error: Exception) -> tuple[str, str]:
    """What to say about an unexpected exception, and what to do; its traceback goes to a temporary file."""
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="surgery-traceback-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(traceback.format_exception(type(error), error, error.__traceback__))
    first = (str(error).splitlines() or [""])[0]
    message = f"a bug in surgery: {type(error).__name__}: {first}"
    return message, f"report it, with the traceback in {path}"


def print_text(text: str) -> None:
    """Print to standard output. A reader that has gone away (``| head``) is not an error."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        # Python flushes standard output once more at exit and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON, indented, as report.json has it."""
    print_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def print_error(
    code: str,
    where: str | None,
    message: str,
    *,
    cause: str | None = None,
    fix: str | None = None,
    stage: str | None = None,
    needs_constant: Sequence[str] = (),
    evidence: Sequence[str] = (),
    following: str | None = None,
) -> None:
    """Print ``error[code] stage: message``, cause and fix to standard error; in colour on a terminal only."""
    head = typer.style(f"error[{code}]", fg=typer.colors.RED, bold=True)
    head += f" {stage}:" if stage else ":"
    place = f"{where}: " if where else ""
    lines = [fitted(f"{head} {place}{message}")]
    lines += [fitted(f"{typer.style('seen:', bold=True)} {text}") for text in evidence]
    if cause:
        lines.append(fitted(f"{typer.style('cause:', bold=True)} {cause}"))
    if fix:
        lines.append(fitted(f"{typer.style('fix:', bold=True)} {fix}"))
    lines += [f"{typer.style('needs:', bold=True)} --constant {n}=VALUE" for n in needs_constant]
    if following:
        lines.append(f"{typer.style('next:', bold=True)} {following}")
    _to_stderr(lines)


def print_failure(failure: Failure) -> None:
    """Print why a run failed."""
    print_error(
        failure.code,
        None,
        failure.message,
        cause=failure.cause,
        fix=failure.fix,
        stage=failure.stage,
        needs_constant=failure.needs_constant,
        evidence=failure.evidence,
        following=failure.next,
    )


def print_warnings(report: Report) -> None:
    """Print the report's warnings to standard error."""
    head = typer.style("warning:", fg=typer.colors.YELLOW, bold=True)
    _to_stderr([fitted(f"{head} {text}") for text in report.warnings])


def wrapped(head: str, text: str) -> list[str]:
    """A text behind a head, in lines of at most 100 characters; words are not broken."""
    import textwrap

    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=head, subsequent_indent=" " * min(len(head), 11),
        break_long_words=False, break_on_hyphens=False,
    ) or [head.rstrip()]  # fmt: skip


def _to_stderr(lines: Sequence[str]) -> None:
    colour = None if "NO_COLOR" not in os.environ else False
    for line in lines:
        typer.echo(line, err=True, color=colour)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: cut between words where that leaves any, and marked as cut."""
    import textwrap

    if len(text) <= most:
        return text
    return (
        textwrap.shorten(text, most, placeholder=" ...").strip()
        if " " in text[: most - 3]
        else f"{text[: most - 3]}..."
    )


def columns(rows: Sequence[Sequence[str]], header: Sequence[str] = (), longest: int = LONGEST) -> str:
    """Rows as aligned text; the last column goes on in lines of its own where a row would be too long.

    Args:
        rows: Texts of the cells.
        header: Titles of the columns, if any.
        longest: Characters of a row that stays on one line.
    """
    table = [list(header), *map(list, rows)] if header else [list(r) for r in rows]
    if not table:
        return ""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for row in table:
        head = "".join(f"{cell.ljust(width)}  " for cell, width in zip(row[:-1], widths, strict=True))
        if indent > longest - NARROW or "\n" in row[-1]:
            lines.append(f"{head}{row[-1]}".rstrip())
        else:
            lines.append(fitted(f"{head}{row[-1]}".rstrip(), indent, longest))
    return "\n".join(lines)
