"""16-bit floats and the dtype that is computed in."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.site import Site

HALVES = ("float16", "bfloat16")


def working_dtype(site: Site) -> np.dtype[Any]:
    """Dtype for scores and softmax: never narrower than float32."""
    dtype = site.dtype(0)
    wanted = site.attr("softmax_precision")
    if dtype.name == "float64" or wanted == 11:
        return np.dtype(np.float64)
    return np.dtype(np.float32)


def to(b: Body, x: str, have: np.dtype[Any], want: np.dtype[Any]) -> str:
    """Cast where the dtypes differ."""
    return x if have == want else b.cast(x, want)


def reduce_mean(b: Body, x: str, axes: range) -> str:
    """Mean over axes, which stay with size 1 (ReduceMean takes them as an input from opset 18)."""
    if b.opset >= 18:
        return b.op("ReduceMean", x, b.ints(*axes), keepdims=1)
    return b.op("ReduceMean", x, axes=list(axes), keepdims=1)
