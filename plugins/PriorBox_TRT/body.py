"""Body of PriorBox_TRT: prior boxes as a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins import prior_boxes
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.from_numbers import FromNumbers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SAME = 1e-6
"""Aspect ratios closer than this are one."""


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    smallest, largest = attributes["minSize"], attributes["maxSize"]
    if not smallest:
        return ["minSize is empty"]
    if largest and len(largest) != len(smallest):
        return [f"maxSize has {len(largest)} entries; expected none or {len(smallest)}"]
    if any(high <= low for low, high in zip(smallest, largest, strict=False)):
        return ["each maxSize has to be above its minSize"]
    return []


def ratios(a: Mapping[str, Any]) -> list[float]:
    """All aspect ratios: 1, then the new ones, each followed by its inverse where `flip` is set."""
    found = [1.0]
    for ratio in a["aspectRatios"]:
        if all(abs(ratio - other) >= SAME for other in found):
            found += [ratio, 1.0 / ratio] if a["flip"] else [ratio]
    return found


def sides(a: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(width, height) in pixels of the prior boxes of one cell."""
    found: list[tuple[float, float]] = []
    for i, size in enumerate(a["minSize"]):
        found.append((size, size))
        if a["maxSize"]:
            middle = math.sqrt(size * a["maxSize"][i])
            found.append((middle, middle))
        found += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios(a)[1:]]
    return found


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    a, given = node.attributes, node.inputs[0]
    height, width = given.shape[2:] if given is not None and given.shape is not None else (None, None)
    known = isinstance(height, int) and isinstance(width, int)
    number = height * width * len(sides(a)) * 4 if known else None  # type: ignore[operator]
    return [TensorType("float32", (2, number, 1))]


def from_numbers(arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]) -> list[FromNumbers]:
    """Constants of a graph that look like its output."""
    return prior_boxes.from_numbers(arrays, shapes)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    height, width = node.static(0, 2), node.static(0, 3)
    image_h, image_w = a["imgH"], a["imgW"]
    if image_h == 0 or image_w == 0:
        image_h, image_w = node.static(1, 2), node.static(1, 3)
    step_h, step_w = a["stepH"], a["stepW"]
    if step_h == 0 or step_w == 0:
        step_h, step_w = image_h / height, image_w / width
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    centre = np.stack([(x + a["offset"]) * step_w, (y + a["offset"]) * step_h], axis=-1)[:, :, None]
    half = np.array(sides(a), np.float64) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=-1) / [image_w, image_h, image_w, image_h]
    if a["clip"]:
        boxes = np.clip(boxes, 0.0, 1.0)
    variances = np.tile(np.array(a["variance"], np.float64), boxes.size // 4)
    both = np.stack([boxes.reshape(-1), variances]).astype(np.float32)[:, :, None]
    b = Body(node.opset)
    return node.function(b, [b.const(both)])
