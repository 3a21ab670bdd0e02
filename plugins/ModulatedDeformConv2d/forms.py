"""How exporters write the modulated deformable convolution: ONNX's DeformConv, since opset 19."""

from __future__ import annotations

from surgery.errors import ConfigError
from surgery.graph.body import Body
from surgery.plugins.recognise_forms import RESULT, Form, Lying, Skeleton
from surgery.plugins.successor import call


def skeleton(s: Skeleton, bias: bool) -> None:
    """DeformConv with a mask: the plugin has no convolution without."""
    x, weight, offset = s.input("x"), s.input("weight"), s.input("offset")
    s.result(s.op("DeformConv", x, weight, offset, s.input("bias") if bias else "", s.input("mask")))


def plugin(b: Body, found: Lying) -> str:
    """The plugin's node. Its pairs of numbers begin with the width."""
    a = found.attributes(RESULT)
    if len(found.shape("x")) != 4:
        raise ConfigError("the plugin takes images only", code="form")
    pads = list(a.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:]:
        raise ConfigError(f"the plugin pads both ends of an axis by the same; these are {pads}", code="form")
    operands = ["x", "offset", "mask", "weight", *(["bias"] if found.variant else [])]
    (y,) = call(
        b,
        found.definition.name,
        operands,
        version=found.definition.version,
        stride=list(a.get("strides", [1, 1]))[::-1],
        padding=pads[1::-1],
        dilation=list(a.get("dilations", [1, 1]))[::-1],
        group=a["group"],
        deformable_group=a["offset_group"],
    )
    return y


FORMS = (
    Form(
        "DeformConv",
        "PyTorch's exporter since opset 19, for torchvision.ops.deform_conv2d with a mask",
        (True, False),
        skeleton,
        plugin,
        {
            "x": ({"fill": "normal"},),
            "weight": ({"fill": "normal"},),
            "offset": ({"low": -2.0, "high": 2.0},),
        },
    ),
)
