"""Ctrl-C, seen even where a library makes another exception of it.

Modules in C++ (ONNX Runtime, TensorRT) turn the KeyboardInterrupt that arrives while they load into an ImportError.
"""

from __future__ import annotations

import contextlib
import signal
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
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed."""
    return _seen.is_set()


def _note(number: int, frame: FrameType | None) -> None:
    _seen.set()
    signal.default_int_handler(number, frame)
