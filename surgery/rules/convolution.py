"""Convolutions of dtypes that TensorRT has no kernels for."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site

BFLOAT16 = 22
"""Operator set from which on convolutions take bfloat16."""


@lowering(
    "convtranspose-of-bfloat16",
    "ConvTranspose",
    why="TensorRT-RTX's compiler infers no type for a transposed convolution of bfloat16. It computes in float32.",
    samples=[
        Sample(
            "(bfloat16[1, 2, 4, 4] x, bfloat16[2, 3, 2, 2] w) => (bfloat16[1, 3, 8, 8] y)"
            " { y = ConvTranspose <strides = [2, 2]> (x, w) }",
            BFLOAT16,
        ),
        Sample(
            "(bfloat16[n, 4, h] x, bfloat16[4, 2, 3] w, bfloat16[4] b) => (bfloat16[n, 4, k] y)"
            " { y = ConvTranspose <group = 2, dilations = [2], pads = [1, 1]> (x, w, b) }",
            BFLOAT16,
        ),
    ],
    near_misses=[
        "(float16[1, 2, 4, 4] x, float16[2, 3, 2, 2] w) => (float16[1, 3, 8, 8] y)"
        " { y = ConvTranspose <strides = [2, 2]> (x, w) }",
    ],
)
def convtranspose_of_bfloat16(site: Site, b: Body) -> str:
    """The same in float32, the result rounded."""
    if site.dtype().name != "bfloat16":
        raise NoMatch(f"the operand is {site.dtype()}")
    operands = [b.cast(site.x(i), np.float32) for i in range(3) if site.has(i)]
    return b.cast(b.op("ConvTranspose", *operands, **site.attributes), site.dtype())
