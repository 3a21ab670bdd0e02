"""QuantizeLinear and DequantizeLinear of com.microsoft."""

from __future__ import annotations

from typing import Any

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.quantization.linear import dequantize, quantize

LINEAR = (("uint8", 7), ("int8", -3), ("uint16", 300), ("int16", -300))


def eight(op: str, text: str) -> list[Sample]:
    """Samples of QuantizeLinear or DequantizeLinear per dtype, for the whole tensor and along an axis."""
    found = []
    for kind, zero in LINEAR:
        constants = f"s = Constant <value = float {{0.037}}> () z = Constant <value = {kind} {{{zero}}}> ()"
        found.append(ms(text.format(t=kind) + f" {{ {constants} y = @{op} (x, s, z) }}"))
    constants = (
        "s = Constant <value = float[3] {0.037, 0.5, 0.11}> () z = Constant <value = uint8[3] {1, 20, 3}> ()"
    )
    return [*found, ms(text.format(t="uint8") + f" {{ {constants} y = @{op} <axis = 1> (x, s, z) }}")]


@lowering(
    "ms-quantize",
    "QuantizeLinear",
    domain=MS,
    why="QuantizeLinear for more dtypes than ONNX's had when it was written.",
    samples=eight("QuantizeLinear", "(float[2, 3, n] x) => ({t}[2, 3, n] y)"),
    near_misses=["(float[2] x, float s, int8 z) => (int8[2] y) { y = QuantizeLinear (x, s, z) }"],
)
def ms_quantize(site: Site, b: Body) -> Any:
    """As ONNX's."""
    return quantize.build(site, b)


@lowering(
    "ms-dequantize",
    "DequantizeLinear",
    domain=MS,
    why="DequantizeLinear for more dtypes than ONNX's had when it was written.",
    samples=eight("DequantizeLinear", "({t}[2, 3, n] x) => (float[2, 3, n] y)"),
    near_misses=["(int8[2] x, float s, int8 z) => (float[2] y) { y = DequantizeLinear (x, s, z) }"],
)
def ms_dequantize(site: Site, b: Body) -> Any:
    """As ONNX's."""
    return dequantize.build(site, b)
