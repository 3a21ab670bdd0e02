"""Turns an ONNX model that TensorRT refuses, or builds wrongly, into an engine that computes the same thing.

The names below are imported when they are first used, so that ``import surgery`` costs next to nothing. What
finishes the verification of an output folder is :func:`surgery.api.verify`; here that name belongs to the
subpackage, which would take the function's place once it is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.api import build, run
    from surgery.errors import SurgeryError
    from surgery.report import Report

__version__ = "0.1.0"

__all__ = ["Report", "SurgeryError", "__version__", "build", "run"]

_WHERE = {
    "Report": "surgery.report",
    "SurgeryError": "surgery.errors",
    "build": "surgery.api",
    "run": "surgery.api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
