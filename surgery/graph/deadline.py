"""A limit on how long ONNX Runtime may run a model: a loop that nothing bounds would never come back."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from surgery.errors import VerificationError

MOST_SECONDS = 1800.0
"""Seconds that one run may take, as long as a build may by default. A run of real work takes seconds on a CPU."""


_END: ContextVar[float | None] = ContextVar("end", default=None)
"""When runs of this context have to be over, on the monotonic clock; None for no such time."""


class EndlessError(VerificationError):
    """A run did not end in time. Not a refusal: another try would take as long, so the whole command ends."""

    default_code = "run-without-end"


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Let all runs that begin within be over after some seconds, whatever their own limits are.

    Args:
        seconds: Time for all of them together.
    """
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


@contextlib.contextmanager
def deadline(seconds: float | None = None) -> Iterator[Any]:
    """Options for one run of an ONNX Runtime session, which is stopped when the time is over.

    ONNX Runtime looks between two nodes, those of bodies included, whether it has to stop.

    Args:
        seconds: Time limit; None takes `MOST_SECONDS`.

    Raises:
        EndlessError: the run was stopped.
    """
    import onnxruntime as ort

    limit, end = MOST_SECONDS if seconds is None else seconds, _END.get()
    if end is not None:
        limit = max(0.0, min(limit, end - time.monotonic()))
    options = ort.RunOptions()
    number = _WATCH.begin(time.monotonic() + limit, options)
    try:
        yield options
    except Exception as error:  # ONNX Runtime's own, which does not say apart why it stopped
        if not options.terminate:
            raise
        raise EndlessError(
            f"ONNX Runtime was still running the model after {limit:.3g} s",
            cause="a loop in it turns without end, or as often as values say",
            fix="give the loop a bound (its first operand), or inputs with which it ends (--constant NAME=VALUE)",
        ) from error
    finally:
        _WATCH.end(number)


def stop_all() -> None:
    """Stop all runs, as if their time were over; who does that says why."""
    _WATCH.stop()


class _Watch:
    """One thread that stops runs whose time is over; a thread for each would take longer than a small run."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._runs: dict[int, tuple[float, Any]] = {}
        self._thread: threading.Thread | None = None
        self._wakes = float("inf")

    def begin(self, end: float, options: Any) -> int:
        """Stop the run of `options` at a time of the monotonic clock."""
        with self._changed:
            number = next(self._numbers)
            self._runs[number] = end, options
            if (
                self._thread is None or not self._thread.is_alive()
            ):  # a process that was forked has no threads
                self._thread = threading.Thread(target=self._watch, name="surgery-deadline", daemon=True)
                self._thread.start()
            elif end < self._wakes:
                self._changed.notify()
        return number

    def end(self, number: int) -> None:
        """Leave a run alone, which is over."""
        with self._changed:
            del self._runs[number]

    def stop(self) -> None:
        """Stop what runs now."""
        with self._changed:
            for _, options in self._runs.values():
                options.terminate = True

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for end, options in self._runs.values():
                    if end <= now:
                        options.terminate = True
                # A run that is over needs no new time to wake at: the next one ends later, as a rule.
                self._wakes = min((e for e, _ in self._runs.values() if e > now), default=float("inf"))
                self._changed.wait(None if self._wakes == float("inf") else self._wakes - now)


_WATCH = _Watch()
