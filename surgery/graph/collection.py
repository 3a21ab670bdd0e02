"""Python's garbage collector, kept out of passes over whole graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's garbage collector, which would walk the whole graph again and again.

    Also a decorator: ``@no_collection()``.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
