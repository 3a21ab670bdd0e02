"""Calling functions that a user wrote: a mistake in one is told with its file and line, and is no bug in surgery."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surgery._data_dirs import shipped_dir
from surgery.errors import ConfigError, SurgeryError


def call_theirs(
    function: Callable[..., Any],
    *arguments: Any,
    place: Path,
    what: str,
    code: str = "bad-definition",
    passing: tuple[type[Exception], ...] = (),
) -> Any:
    """Call a function of a file that may be the user's own.

    Args:
        function: The function.
        arguments: What it is called with.
        place: The file that it comes from, or the folder of all the files that belong to it.
        what: What was called and for what, for the message.
        code: Of the error.
        passing: Exceptions that are answers, and no mistakes.

    Raises:
        ConfigError: it raised something else that is not an error of surgery's. What comes with surgery raises on:
            a mistake there is a bug.
    """
    try:
        return function(*arguments)
    except Exception as error:  # whatever the user's code does
        if isinstance(error, (SurgeryError, *passing)) or is_shipped(place):
            raise
        raise mistake(error, place, what, code=code, function=function) from error


def mistake(
    error: Exception,
    place: Path,
    what: str,
    *,
    code: str = "bad-definition",
    function: Callable[..., Any] | None = None,
) -> ConfigError:
    """An exception that the user's code raised, as an error that names the file, the line and the message.

    Args:
        error: The exception, with its traceback.
        place: The file that was run, or the folder of all the files that belong to it.
        what: What was called and for what.
        code: Of the error.
        function: What was called: its place is told where the exception passed no line of the user's.
    """
    if isinstance(error, SyntaxError) and error.filename and _within(error.filename, place):
        where = f"{_as_given(error.filename, place)}:{error.lineno or 1}"
        return ConfigError(f"{type(error).__name__}: {error.msg}", code=code, where=where)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if _within(f.filename, place)]
    last = f"{_as_given(lines[-1].filename, place)}:{lines[-1].lineno}" if lines else None
    where = last or place_of(function, place)
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ConfigError(told, code=code, where=where, cause=f"raised in {what}")


def wrong_result(
    function: Callable[..., Any], place: Path, told: str, code: str = "bad-definition"
) -> ConfigError:
    """The error for a user's function that gives something else than it has to.

    Args:
        function: The function.
        place: The file or folder that it comes from.
        told: What it gave, and what it has to give.
        code: Of the error.
    """
    return ConfigError(told, code=code, where=place_of(function, place))


def place_of(function: Callable[..., Any] | None, place: Path) -> str:
    """File and line of a function's definition; the file or folder alone where it is defined elsewhere."""
    plain = inspect.unwrap(function) if function is not None else None
    code = getattr(plain, "__code__", None)
    if code is None or not _within(code.co_filename, place):
        return str(place)
    return f"{_as_given(code.co_filename, place)}:{code.co_firstlineno}"


def is_shipped(place: Path) -> bool:
    """Whether a file or folder comes with surgery."""
    own = (Path(__file__).resolve().parent, shipped_dir("plugins").resolve())
    return any(place.resolve().is_relative_to(folder) for folder in own)


def _within(file: str, place: Path) -> bool:
    return Path(file).resolve().is_relative_to(place.resolve())


def _as_given(file: str, place: Path) -> Path:
    """The path of a file as the user gave that of its folder."""
    return place / Path(file).resolve().relative_to(place.resolve())
