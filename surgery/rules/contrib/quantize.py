"""QuantizeLinear and DequantizeLinear of com.microsoft."""

from __future__ import annotations

from typing import Any

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import Lowering, Sample, lowering
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


def as_onnx(name: str, op: str, text: str, near: str, rule: Lowering) -> Lowering:
    """The rule for an operator of com.microsoft that is ONNX's, for more dtypes than that had when it was written.

    Args:
        name: Of the rule.
        op: The operator.
        text: Signature of its samples, with the dtype of the quantised tensor open.
        near: A near miss.
        rule: The one for ONNX's operator.
    """

    def build(site: Site, b: Body) -> Any:
        return rule.build(site, b)

    why = f"{op} for more dtypes than ONNX's had when it was written."
    return lowering(name, op, domain=MS, why=why, samples=eight(op, text), near_misses=[near])(build)


ms_quantize = as_onnx(
    "ms-quantize",
    "QuantizeLinear",
    "(float[2, 3, n] x) => ({t}[2, 3, n] y)",
    "(float[2] x, float s, int8 z) => (int8[2] y) { y = QuantizeLinear (x, s, z) }",
    quantize,
)

ms_dequantize = as_onnx(
    "ms-dequantize",
    "DequantizeLinear",
    "({t}[2, 3, n] x) => (float[2, 3, n] y)",
    "(int8[2] x, float s, int8 z) => (float[2] y) { y = DequantizeLinear (x, s, z) }",
    dequantize,
)
