"""Graphs as exporters write them, node by node, for the forms of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper


@dataclass
class Graph:
    """A list of nodes in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=f"/{kind}_{len(self.nodes)}", **attributes)
        )
        return names[0] if outputs == 1 else names

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def size(self, x: str, axis: int) -> str:
        """A dim of a tensor as a vector of one number, computed as exporters do."""
        dim = self.op("Gather", self.op("Shape", x), self.const(axis, np.int64), axis=0)
        return str(self.op("Unsqueeze", dim, self.ints(0)))

    def reshape(self, x: str, *dims: int | str) -> str:
        """To a shape of numbers and of tensors of one number each."""
        if all(isinstance(d, int) for d in dims):
            return str(self.op("Reshape", x, self.ints(*(int(d) for d in dims))))
        parts = [d if isinstance(d, str) else self.ints(d) for d in dims]
        return str(self.op("Reshape", x, self.op("Concat", *parts, axis=0)))

    def model(
        self,
        inputs: dict[str, Sequence[int | str]],
        outputs: dict[str, Sequence[int | str | None]],
        opset: int = 17,
        kind: int = TensorProto.FLOAT,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "exported",
            [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(made)
        return made


SIZES = ((4, 6), (2, 3))
HEADS, DEPTH, QUERIES, POINTS = 2, 3, 5, 4
PIXELS = sum(h * w for h, w in SIZES)


def attention(
    *,
    batch: int | str = 2,
    split: bool = False,
    commuted: bool = False,
    sampling: dict[str, Any] | None = None,
    shift: float = 1.0,
    swapped: bool = False,
    extra_output: bool = False,
) -> onnx.ModelProto:
    """Multi-scale deformable attention as Hugging Face's models have it.

    Args:
        batch: Batch; a name for a free one, with the shapes computed in the graph then.
        split: One Split instead of Slices.
        commuted: Operands of products in the other order.
        sampling: Other attributes of GridSample.
        shift: What is subtracted of twice the places.
        swapped: Results of the levels in another order.
        extra_output: Hand out what the first level gives, too.
    """
    g = Graph()
    g.nodes.append(helper.make_node("Identity", ["value_in"], ["value"]))
    b = batch if isinstance(batch, int) else g.size("value", 0)
    rows = batch * HEADS if isinstance(batch, int) else g.op("Mul", b, g.ints(HEADS))
    ends = np.cumsum([0, *(h * w for h, w in SIZES)]).tolist()
    if split:
        lengths = g.ints(*(h * w for h, w in SIZES))
        parts = g.op("Split", "value", lengths, axis=1, outputs=len(SIZES))
    else:
        parts = [
            g.op("Slice", "value", g.ints(ends[i]), g.ints(ends[i + 1]), g.ints(1)) for i in range(len(SIZES))
        ]
    two = ("places", g.const(2.0))
    grid = g.op("Sub", g.op("Mul", *(two[::-1] if commuted else two)), g.const(shift))
    options = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0, **(sampling or {})}
    found = []
    for level, (h, w) in enumerate(SIZES):
        flat = g.op("Transpose", g.reshape(parts[level], b, h * w, HEADS * DEPTH), perm=[0, 2, 1])
        pixels = g.reshape(flat, rows, DEPTH, h, w)
        at = g.op("Gather", grid, g.const(level, np.int64), axis=3)
        at = g.reshape(g.op("Transpose", at, perm=[0, 2, 1, 3, 4]), rows, QUERIES, POINTS, 2)
        found.append(g.op("GridSample", pixels, at, **options))
    stacked = [g.op("Unsqueeze", f, g.ints(-2)) for f in (found[::-1] if swapped else found)]
    sampled = g.reshape(g.op("Concat", *stacked, axis=-2), rows, DEPTH, QUERIES, len(SIZES) * POINTS)
    weights = g.op("Transpose", "weights", perm=[0, 2, 1, 3, 4])
    weights = g.reshape(weights, rows, 1, QUERIES, len(SIZES) * POINTS)
    product = g.op("Mul", *((weights, sampled) if commuted else (sampled, weights)))
    total = g.reshape(g.op("ReduceSum", product, g.ints(-1), keepdims=0), b, HEADS * DEPTH, QUERIES)
    g.nodes.append(helper.make_node("Transpose", [total], ["attended"], name="/last", perm=[0, 2, 1]))
    g.nodes.append(helper.make_node("Relu", ["attended"], ["y"]))
    outputs: dict[str, Any] = {"y": [batch, QUERIES, HEADS * DEPTH]}
    if extra_output:
        outputs[found[0]] = [None, DEPTH, QUERIES, POINTS]
    return g.model(
        {
            "value_in": [batch, PIXELS, HEADS, DEPTH],
            "places": [batch, QUERIES, HEADS, len(SIZES), POINTS, 2],
            "weights": [batch, QUERIES, HEADS, len(SIZES), POINTS],
        },
        outputs,
    )


def heads_first() -> onnx.ModelProto:
    """Multi-scale deformable attention as D-FINE has it: points of all levels side by side."""
    g, batch = Graph(), 2
    g.nodes.append(helper.make_node("Identity", ["value_in"], ["value"]))
    several = len(SIZES) * POINTS
    turned = g.op("Transpose", "value", perm=[0, 2, 3, 1])
    rows = g.reshape(turned, batch * HEADS, DEPTH, PIXELS)
    ends = np.cumsum([0, *(h * w for h, w in SIZES)]).tolist()
    grid = g.op("Sub", g.op("Mul", "places", g.const(2.0)), g.const(1.0))
    grids = g.reshape(g.op("Transpose", grid, perm=[0, 2, 1, 3, 4]), batch * HEADS, QUERIES, several, 2)
    at = g.op("Split", grids, g.ints(*([POINTS] * len(SIZES))), axis=-2, outputs=len(SIZES))
    found = []
    for level, (h, w) in enumerate(SIZES):
        part = g.op("Slice", rows, g.ints(ends[level]), g.ints(ends[level + 1]), g.ints(2))
        pixels = g.reshape(part, batch * HEADS, DEPTH, h, w)
        found.append(g.op("GridSample", pixels, at[level], mode="bilinear", padding_mode="zeros"))
    weights = g.op("Transpose", "weights", perm=[0, 2, 1, 3])
    weights = g.reshape(weights, batch * HEADS, 1, QUERIES, several)
    product = g.op("Mul", g.op("Concat", *found, axis=-1), weights)
    total = g.op("ReduceSum", product, g.ints(-1), keepdims=0)
    total = g.reshape(total, batch, HEADS * DEPTH, QUERIES)
    g.nodes.append(helper.make_node("Transpose", [total], ["attended"], name="/last", perm=[0, 2, 1]))
    g.nodes.append(helper.make_node("Relu", ["attended"], ["y"]))
    return g.model(
        {
            "value_in": [batch, PIXELS, HEADS, DEPTH],
            "places": [batch, QUERIES, HEADS, several, 2],
            "weights": [batch, QUERIES, HEADS, several],
        },
        {"y": [batch, QUERIES, HEADS * DEPTH]},
    )


def deform_conv(*, mask: bool = True, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """A deformable convolution, weights as constants."""
    g = Graph()
    rng = np.random.default_rng(3)
    weight, offsets = g.const(rng.normal(size=(6, 4, 3, 3))), 2 * 9
    operands = ["x", weight, "offset"]
    if bias or mask:
        operands.append(g.const(rng.normal(size=6)) if bias else "")
    if mask:
        operands.append("mask")
    options = {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0], "strides": [2, 1], **attributes}
    g.nodes.append(helper.make_node("DeformConv", operands, ["conv"], name="/conv", **options))
    g.nodes.append(helper.make_node("Relu", ["conv"], ["y"]))
    inputs: dict[str, Any] = {"x": [2, 4, 9, 8], "offset": [2, offsets, 5, 6]}
    if mask:
        inputs["mask"] = [2, 9, 5, 6]
    return g.model(inputs, {"y": [2, 6, 5, 6]}, opset=19)


BOXES, CLASSES, KEPT = 40, 3, 12


def ultralytics(
    *, agnostic: bool = False, iou: float = 0.6, score: float = 0.2, extra: int = 0, compare: str = "Greater"
) -> onnx.ModelProto:
    """The suppression that ultralytics exports, for one image."""
    g = Graph()
    end = 4 + CLASSES
    g.nodes.append(helper.make_node("Transpose", ["raw"], ["rows"], perm=[0, 2, 1]))
    boxes = g.op("Slice", "rows", g.ints(0), g.ints(4), g.ints(2))
    scores = g.op("Slice", "rows", g.ints(4), g.ints(end), g.ints(2))
    others = g.op("Slice", "rows", g.ints(end), g.ints(end + extra), g.ints(2))
    first = g.const(0, np.int64)
    best = g.op("Gather", g.op("ReduceMax", scores, axes=[-1], keepdims=0), first, axis=0)
    label = g.op("Gather", g.op("ArgMax", scores, axis=-1, keepdims=0), first, axis=0)
    passed = g.op(compare, best, g.const(score))

    def chosen(x: str) -> str:
        return str(g.op("GatherND", x, g.op("Transpose", g.op("NonZero", passed), perm=[1, 0])))

    some_boxes = chosen(g.op("Gather", boxes, first, axis=0))
    some_scores, some_labels = chosen(best), chosen(label)
    some_others = chosen(g.op("Gather", others, first, axis=0))
    scaled = g.op("Mul", g.op("Div", some_boxes, g.const(64.0)), g.const(1 / CLASSES))
    if not agnostic:
        number = g.size(some_labels, 0)
        wide = g.reshape(some_labels, number, 1)
        wide = g.op("Expand", wide, g.op("Concat", number, g.ints(4), axis=0))
        moved = g.op("Mul", g.op("Cast", wide, to=TensorProto.FLOAT), g.const(1 / CLASSES))
        head = g.op("Slice", scaled, g.ints(0), g.ints(4), g.ints(1))
        tail = g.op("Slice", scaled, g.ints(4), g.ints(2**62), g.ints(1))
        scaled = g.op("Concat", g.op("Add", head, moved), tail, axis=-1)
    ranked = g.op("Unsqueeze", g.op("Unsqueeze", some_scores, g.ints(0)), g.ints(0))
    kept = g.op(
        "NonMaxSuppression",
        g.op("Cast", g.op("Unsqueeze", scaled, g.ints(0)), to=TensorProto.FLOAT),
        g.op("Cast", ranked, to=TensorProto.FLOAT),
        g.ints(2**62),
        g.const([iou]),
    )
    kept = g.op("Squeeze", g.op("Gather", kept, g.ints(2), axis=1), g.ints(1))
    kept = g.op("Slice", kept, g.ints(0), g.ints(KEPT), g.ints(0))
    rows = g.op(
        "Concat",
        g.op("Gather", some_boxes, kept, axis=0),
        g.reshape(g.op("Gather", some_scores, kept, axis=0), -1, 1),
        g.op("Cast", g.reshape(g.op("Gather", some_labels, kept, axis=0), -1, 1), to=TensorProto.FLOAT),
        g.op("Gather", some_others, kept, axis=0),
        axis=-1,
    )
    width = 6 + extra
    missing = g.op("Mul", g.op("Sub", g.ints(KEPT), g.size(rows, 0)), g.ints(width))
    padded = g.op("Pad", g.reshape(rows, -1), g.op("Concat", g.ints(0), missing, axis=0))
    padded = g.op("Expand", g.reshape(padded, KEPT, width), g.ints(KEPT, width))
    empty = g.op("ConstantOfShape", g.ints(1, KEPT, width))
    filled = g.op("ScatterND", empty, g.const([[0]], np.int64), g.reshape(padded, 1, KEPT, width))
    g.nodes.append(
        helper.make_node("Slice", [filled, g.ints(0), g.ints(1), g.ints(0)], ["output0"], name="/last")
    )
    return g.model({"raw": [1, end + extra, BOXES]}, {"output0": [1, None, width]})


def disentangled(*, length: int = 40, span: int = 6, ratio: int = 2, scale: float = 3.0) -> onnx.ModelProto:
    """DeBERTa's scores; `ratio` is the largest position by the number of buckets, 2 in the published models."""
    g = Graph()
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    middle = span // 2
    near = np.abs(distance) < middle
    size = np.where(near, middle - 1, np.abs(distance))
    step = np.ceil(np.log(size / middle) / np.log((ratio * span - 1) / middle) * (middle - 1)) + middle
    bucket = np.where(size <= middle, distance, step * np.sign(distance)).astype(np.int64)
    batch, width = 4, 2 * span
    columns = np.broadcast_to(np.clip(bucket + span, 0, width - 1), (batch, length, length))
    rows = np.broadcast_to(np.clip(span - bucket, 0, width - 1), (batch, length, length))
    content = g.op("MatMul", "query", g.op("Div", g.op("Transpose", "key", perm=[0, 2, 1]), g.const(scale)))
    first = g.op("GatherElements", "to_position", g.const(columns, np.int64), axis=-1)
    total = g.op("Add", g.op("Div", first, g.const(scale)), g.const(0, np.float32))
    second = g.op("GatherElements", "to_content", g.const(rows, np.int64), axis=-1)
    turned = g.op("Transpose", second, perm=[0, 2, 1])
    total = g.op("Add", total, g.op("Div", turned, g.const(scale)))
    g.nodes.append(helper.make_node("Add", [content, total], ["sum"], name="/last"))
    g.nodes.append(helper.make_node("Relu", ["sum"], ["y"]))
    return g.model(
        {
            "query": [batch, length, 5],
            "key": [batch, length, 5],
            "to_position": [batch, length, width],
            "to_content": [batch, length, width],
        },
        {"y": [batch, length, length]},
    )
