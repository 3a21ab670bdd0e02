"""What is installed here, for tests that ask a real TensorRT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surgery.targets import resolve_target
from surgery.trt.session import installed_flavours

RTX = installed_flavours().get("tensorrt-rtx")
"""Version of TensorRT-RTX, or None."""

installed = pytest.mark.skipif(not resolve_target(None).installed, reason="no TensorRT is installed")
"""Mark of tests that ask the TensorRT of the default target."""

real = pytest.mark.skipif(RTX is None, reason="TensorRT-RTX is not installed")
"""Mark of tests that ask TensorRT-RTX, whichever version is installed."""

real_17 = pytest.mark.skipif(not (RTX or "").startswith("1.7"), reason="TensorRT-RTX 1.7 is not installed")
"""Mark of tests of what TensorRT-RTX 1.7 says."""

FULL = [
    *(c for c in os.environ.get("SURGERY_TRT_API", "").split(":") if c),
    *([""] if "tensorrt" in installed_flavours() else []),
]
"""Python programs that import full TensorRT; empty text is the one that runs the tests."""

full = pytest.mark.skipif(not FULL, reason="full TensorRT is not installed and SURGERY_TRT_API is not set")
"""Mark of tests that ask full TensorRT."""


def full_name(command: object) -> str:
    """What a test is called with one of these programs; pytest 8 asks for a name where there is none, too."""
    return (Path(command).parent.name or "installed") if isinstance(command, str) else "none"
