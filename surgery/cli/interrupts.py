"""Ctrl-C, seen even where a library makes another exception of it.

Modules in C++ (ONNX Runtime, TensorRT) turn the KeyboardInterrupt that arrives while they load into an ImportError.
While ONNX Runtime runs a model, Python sees no signal at all until it comes back, so it is told to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_seen = threading.Event()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Note each Ctrl-C in the ``with``, and raise KeyboardInterrupt as Python does."""
    _seen.clear()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # somebody else handles it
        return
    signal.signal(signal.SIGINT, _note)
    try:
        with _runs_stopped():
            yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _runs_stopped() -> Iterator[None]:
    """Let a Ctrl-C stop what ONNX Runtime runs: a thread reads what Python's own handler writes at once."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_stop_runs, args=(read,), name="surgery-interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # which ends the thread
        thread.join()
        os.close(read)


def _stop_runs(read: int) -> None:
    while numbers := os.read(read, 64):
        module = sys.modules.get("surgery.graph.deadline")  # without it, nothing runs
        if signal.SIGINT in numbers and module is not None:
            module.stop_all()


def interrupted() -> bool:
    """Whether Ctrl-C was pressed."""
    return _seen.is_set()


def _note(number: int, frame: FrameType | None) -> None:
    _seen.set()
    signal.default_int_handler(number, frame)
