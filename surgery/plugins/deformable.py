"""The bodies of the deformable convolutions and of multi-scale deformable attention.

Sources: plugin/modulatedDeformConvPlugin and plugin/multiscaleDeformableAttnPlugin of NVIDIA/TensorRT;
csrc/mmdeploy/backend_ops/tensorrt (deform_conv, modulated_deform_conv, multi_scale_deform_attn) of mmdeploy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, lowered, mixed_floats, narrow, numbers, size, wide
from surgery.rules.sampling.deformed import deformconv
from surgery.rules.sampling.pixels import Tap, weighted_pixels


@dataclass(frozen=True)
class Convolution:
    """Where a plugin has the parts of a deformable convolution.

    Attributes:
        weight: Input number of the kernel.
        mask: Input number of the mask, None if it has none.
        bias: Input number of the bias, None if it has none.
        group: Name of the attribute for groups.
        parts: Name of the attribute for groups of offsets.
    """

    weight: int
    mask: int | None
    bias: int | None
    group: str
    parts: str

    def attributes(self, a: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of ONNX's DeformConv. The plugins read the first number of each pair for the width."""
        pad_w, pad_h = a["padding"][:2]
        return {
            "strides": a["stride"][1::-1],
            "dilations": a["dilation"][1::-1],
            "pads": [pad_h, pad_w, pad_h, pad_w],
            "group": a[self.group],
            "offset_group": a[self.parts],
        }

    def problems(self, a: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
        """Problems that types have with each other and with the attributes."""
        found = mixed_floats(types, *range(len(types)))
        x, offset = types[0], types[1]
        kernel = types[self.weight]
        if x is None or offset is None or kernel is None or found:
            return found
        mask = types[self.mask] if self.mask is not None else None
        (_, channels, *space), (_, offsets, *out) = x.shape or (None,) * 4, offset.shape or (None,) * 4
        wanted, inner, *taps = kernel.shape or (None,) * 4
        for name, count in (("channels", channels), ("output channels", wanted)):
            if isinstance(count, int) and count % a[self.group]:
                found.append(f"{count} {name} are not a multiple of {self.group} {a[self.group]}")
        if isinstance(channels, int) and isinstance(inner, int) and inner * a[self.group] != channels:
            found.append(f"the kernel has {inner} input channels; expected {channels} / {a[self.group]}")
        if isinstance(channels, int) and channels % a[self.parts]:
            found.append(f"{channels} channels are not a multiple of {self.parts} {a[self.parts]}")
        if all(isinstance(t, int) for t in taps):
            points = a[self.parts] * int(taps[0] or 0) * int(taps[1] or 0)
            given_masks = mask.shape[1] if mask is not None and mask.shape else None
            for name, count, expected in (("offset", offsets, 2 * points), ("mask", given_masks, points)):
                if isinstance(count, int) and count != expected:
                    found.append(f"{name} has {count} channels; expected {expected}")
            found += self._size_problems(a, space, taps, out)
        return found

    def _size_problems(
        self, a: Mapping[str, Any], space: Sequence[Any], taps: Sequence[Any], out: Sequence[Any]
    ) -> list[str]:
        found = []
        onnx = self.attributes(a)
        for i, name in enumerate(("rows", "columns")):
            if isinstance(space[i], int) and isinstance(out[i], int):
                reach = onnx["dilations"][i] * (taps[i] - 1) + 1
                expected = (space[i] + 2 * onnx["pads"][i] - reach) // onnx["strides"][i] + 1
                if out[i] != expected:
                    found.append(f"the offsets have {out[i]} {name}; the convolution gives {expected}")
        return found

    def emit(self, b: Body, node: ConfiguredNode) -> str:
        """The result [N, output channels, H, W], in the dtype of the input."""
        names = node.input_names

        def operand(index: int | None) -> tuple[str, TensorType] | None:
            if index is None or index >= len(node.inputs) or node.inputs[index] is None:
                return None
            return names[index], given(node, index)

        operands = [operand(i) for i in (0, self.weight, 1, self.bias, self.mask)]
        return lowered(
            b, node, deformconv, "DeformConv", operands, self.attributes(node.attributes), opset=19
        )


MODULATED = Convolution(weight=3, mask=2, bias=4, group="group", parts="deformable_group")
MMCV_MODULATED = Convolution(weight=3, mask=2, bias=4, group="groups", parts="deform_groups")
MMCV_PLAIN = Convolution(weight=2, mask=None, bias=None, group="groups", parts="deform_groups")


def attention_problems(types: Sequence[TensorType | None]) -> list[str]:
    """Problems that the types of multi-scale deformable attention have with each other."""
    return mixed_floats(types, 0, 3, 4)


def emit_attention(b: Body, node: ConfiguredNode) -> str:
    """Multi-scale deformable attention: [N, Lq, M, D], float32.

    Inputs value [N, S, M, D], sizes of the levels [L, 2] (rows, columns), first pixels of the levels [L],
    places [N, Lq, M, L, P, 2] (x, y) in 0..1, weights [N, Lq, M, L, P].
    """
    heads, depth = node.static(0, 2), node.static(0, 3)
    value = wide(b, node, 0)
    rows = b.reshape(b.transpose(value, 0, 2, 1, 3), -1, depth)  # pixels of a head of an image in a row
    levels = b.cast(node.input_names[1], np.int64)
    starts = b.reshape(b.cast(node.input_names[2], np.int64), 1, 1, 1, -1, 1)
    image = b.mul(numbers(b, size(b, node, 0, 0)), b.const(heads, np.int64))
    head = b.const(np.arange(heads).reshape(1, 1, -1, 1, 1), np.int64)
    base = b.mul(b.add(b.reshape(image, -1, 1, 1, 1, 1), head), size(b, node, 0, 1))
    places = wide(b, node, 3)
    taps, lengths = [], []
    for i in range(2):
        length = b.reshape(b.gather(levels, b.const(i, np.int64), 1), 1, 1, 1, -1, 1)
        lengths.append(length)
        real = b.cast(length, np.float32)
        at = b.mul(b.gather(places, b.const(1 - i, np.int64), -1), real)
        taps.append(_taps(b, b.sub(at, b.scalar(0.5)), real))
    found = weighted_pixels(b, rows, b.add(base, starts), taps, lengths, np.float32)
    weighted = b.mul(found, b.unsqueeze(wide(b, node, 4), -1))
    return b.reduce("ReduceSum", weighted, 3, 4, keepdims=False)


def _taps(b: Body, at: str, length: str) -> list[Tap]:
    """Both pixels around a place; one outside has a weight of 0 (and is a pixel inside)."""
    one, zero = b.scalar(1.0), b.scalar(0.0)
    low = b.op("Floor", at)
    part = b.sub(at, low)
    last = b.sub(length, one)
    found = []
    for place, weight in ((low, b.sub(one, part)), (b.add(low, one), part)):
        inside = b.logical_not(b.logical_or(b.less(place, zero), b.greater(place, last)))
        index = b.cast(b.maximum(b.minimum(place, last), zero), np.int64)
        found.append(Tap(index, b.where(inside, weight, zero), None))
    return found


def attention_result(b: Body, node: ConfiguredNode, *, merged: bool) -> str:
    """The attention in the dtype of the values; `merged` puts the heads side by side: [N, Lq, M * D]."""
    result = narrow(b, node, emit_attention(b, node))
    if merged:
        result = b.reshape(result, 0, 0, node.static(0, 2) * node.static(0, 3))
    return result
