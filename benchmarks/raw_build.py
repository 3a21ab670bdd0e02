"""A model as it is, built with the shapes and options that surgery builds its own with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from surgery.trt.session import Worker
from surgery.trt.types import BuildOptions, BuildOutcome, Limits, ShapeProfile

LIMIT = Limits(seconds=600.0)
AS_SURGERY = BuildOptions(tf32=False)


def build(
    worker: Worker, model: Path | onnx.ModelProto, profiles: Sequence[Mapping[str, Any]]
) -> BuildOutcome:
    """Parse and build.

    Args:
        worker: The TensorRT process.
        model: The model, or where it is.
        profiles: Entries of a report: input, min, opt, max; those for other inputs than the model has are left out.
    """
    proto = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
    names = {i.name for i in proto.graph.input}
    shapes = [
        ShapeProfile(p["input"], tuple(p["min"]), tuple(p["opt"]), tuple(p["max"]))
        for p in profiles
        if p["input"] in names
    ]
    content = model if isinstance(model, Path) else model.SerializeToString()
    return worker.build(content, [shapes] if shapes else [], AS_SURGERY, limits=LIMIT)


def why_not(built: BuildOutcome) -> str:
    """What the parser or the builder said first."""
    if built.parse_errors:
        error = built.parse_errors[0]
        return f"{error.node_op} {error.node_name}: {error.description}"[:300]
    ends = {"timed_out": "not built in time", "aborted": "the builder aborted"}
    said = [text for name, text in ends.items() if getattr(built, name)]
    return (said or list(built.errors) or ["the builder refuses it"])[0][:300]
