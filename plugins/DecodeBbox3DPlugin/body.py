"""Body of DecodeBbox3DPlugin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_sampling import size_of

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    classes, values = len(attributes["anchor_bottom_height"]), len(attributes["anchors"])
    if values != classes * 2 * 4 or not classes:
        return [f"anchors has {values} values; expected 8 for each of {classes} classes"]
    problems = []
    for given, name, each in zip(
        types, ("cls_preds", "box_preds", "dir_cls_preds"), (classes, 7, 2), strict=False
    ):
        shape = None if given is None else given.shape
        if shape is not None and isinstance(shape[3], int) and shape[3] != 2 * classes * each:
            problems.append(f"{name} has {shape[3]} channels; expected {2 * classes * each}")
        if shape is not None and 1 in shape[1:3]:
            problems.append(f"{name} is one cell high or wide: the kernel divides by the cells less one")
    return problems


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the outputs."""
    given = node.inputs[0]
    batch, height, width, _ = given.shape if given is not None and given.shape is not None else (None,) * 4
    known = isinstance(height, int) and isinstance(width, int)
    anchors = 2 * len(node.attributes["anchor_bottom_height"])
    rows = height * width * anchors if known else None  # type: ignore[operator]
    return [TensorType("float32", (batch, rows, 9)), TensorType("int32", (batch,))][: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    logits, encodings, directions = node.input_names
    height, width, classes = node.static(0, 1), node.static(0, 2), len(a["anchor_bottom_height"])
    rows = height * width * 2 * classes

    scores = b.op("Sigmoid", b.reshape(logits, 0, rows, classes))
    score = b.reduce("ReduceMax", scores, 2)
    iota = b.const(np.arange(classes).reshape(1, 1, -1))
    # The first class of several with the same score.
    label = b.reduce("ReduceMin", b.where(b.equal(scores, score), iota, b.scalar(float(classes))), 2)
    cells = _Anchors(b, a, height, width)
    box = cells.decode(b.split(b.reshape(encodings, 0, rows, 7), 2, 7))
    first, second = b.split(b.reshape(directions, 0, rows, 2), 2, 2)
    direction = b.where(b.greater(first, second), b.scalar(0.0), b.scalar(1.0))
    period = 2.0 * math.pi / a["num_dir_bins"]
    yaw = b.sub(box[6], b.scalar(a["dir_offset"]))
    turns = b.op("Floor", b.add(b.div(yaw, b.scalar(period)), b.scalar(a["dir_limit_offset"])))
    yaw = b.add(b.sub(yaw, b.mul(turns, b.scalar(period))), b.scalar(a["dir_offset"]))
    box[6] = b.add(yaw, b.mul(b.scalar(period), direction))
    table = b.concat([*box, label, score], 2)

    kept = b.cast(b.greater_equal(score, b.scalar(a["score_thresh"])), np.float32)
    place = b.sub(b.op("CumSum", kept, b.const(1, np.int64)), b.scalar(1.0))
    # Rows that are not kept go to one behind the last, which is cut off.
    place = b.where(b.greater(kept, b.scalar(0.5)), place, b.scalar(float(rows)))
    shape = b.concat([size_of(b, logits, 0), b.ints(rows + 1, 9)], 0)
    empty = b.op("Expand", b.scalar(0.0), shape)
    index = b.expand(b.cast(place, np.int64), 1, 1, 9)
    filled = b.slice(b.op("ScatterElements", empty, index, table, axis=1), 1, 0, rows)
    count = b.cast(b.reduce("ReduceSum", kept, 1, 2, keepdims=False), np.int32)
    return node.function(b, [filled, count])


class _Anchors:
    """The anchors of all cells as constants [1, H * W * anchors, 1]."""

    def __init__(self, b: Body, a: Mapping[str, Any], height: int, width: int) -> None:
        self.b = b
        low_x, low_y, _, high_x, high_y, _ = (np.float32(v) for v in a["point_cloud_range"])
        anchors = np.array(a["anchors"], np.float32).reshape(-1, 4)
        bottom = np.repeat(np.array(a["anchor_bottom_height"], np.float32), 2)
        y = low_y + np.arange(height, dtype=np.float32) * (high_y - low_y) / np.float32(height - 1)
        x = low_x + np.arange(width, dtype=np.float32) * (high_x - low_x) / np.float32(width - 1)
        whole = (height, width, len(anchors))
        dx, dy, dz, turn = anchors.T
        self.columns = [
            b.const(np.broadcast_to(v, whole).reshape(1, -1, 1))
            for v in (x[None, :, None], y[:, None, None], dz / 2 + bottom, dx, dy, dz, turn)
        ]
        self.diagonal = b.const(np.broadcast_to(np.sqrt(dx * dx + dy * dy), whole).reshape(1, -1, 1))

    def decode(self, t: Sequence[str]) -> list[str]:
        """x, y, z, dx, dy, dz and the raw angle."""
        b = self.b
        x, y, z, dx, dy, dz, turn = self.columns
        return [
            b.add(b.mul(t[0], self.diagonal), x),
            b.add(b.mul(t[1], self.diagonal), y),
            b.add(b.mul(t[2], dz), z),
            *(b.mul(b.op("Exp", code), side) for code, side in zip(t[3:6], (dx, dy, dz), strict=True)),
            b.add(t[6], turn),
        ]
