"""Small detectors built for tests: a decode, a head in TensorFlow's manner, with every knob free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MODELS = Path(__file__).parents[2] / "models"
CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "tfssd"


def detector(
    *,
    boxes: int = 24,
    classes: int = 3,
    total: int = 10,
    per_class: int = 6,
    iou: float = 0.5,
    score: float = 0.1,
    class_offset: int = 1,
    opset: int = 13,
    background: bool = True,
) -> onnx.ModelProto:
    """image [1, 4, 4, 3] -> two dense layers -> decode-free boxes and sigmoid scores -> per-class loops.

    The post-processing is the unrolled one of TensorFlow exports: one NonMaxSuppression per class, padding with
    score -1, concatenation, TopK, clipping, removal of empty boxes, padding with zeros.
    """
    rng = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    counter = iter(range(10_000))

    def const(value: object, dtype: object) -> str:
        name = f"c{next(counter)}"
        initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(
        kind: str, *inputs: str, outputs: Sequence[str] = (), name: str | None = None, **attrs: object
    ) -> str:
        outs = list(outputs) or [f"t{next(counter)}"]
        label = name or f"Postprocessor/{kind}_{next(counter)}"
        nodes.append(helper.make_node(kind, list(inputs), outs, name=label, **attrs))
        return outs[0]

    columns = classes + 1 if background else classes
    flat = op("Reshape", "image", const([1, 48], np.int64), name="net/flatten")
    weights = const(rng.normal(0, 0.6, (48, boxes * 4)), np.float32)
    raw = op(
        "Reshape", op("MatMul", flat, weights, name="net/loc"), const([1, boxes, 4], np.int64), name="net/l"
    )
    corner = op("Slice", raw, const([0], np.int64), const([2], np.int64), const([2], np.int64), name="net/c")
    extent = op("Slice", raw, const([2], np.int64), const([4], np.int64), const([2], np.int64), name="net/e")
    low = op("Sub", corner, op("Exp", op("Mul", extent, const(0.2, np.float32))))
    high = op("Add", corner, op("Exp", op("Mul", extent, const(0.2, np.float32))))
    decoded = op("Mul", op("Concat", low, high, axis=2), const(0.3, np.float32), outputs=["raw_boxes"])
    conf = const(rng.normal(0, 0.5, (48, boxes * columns)), np.float32)
    logits = op(
        "Reshape", op("MatMul", flat, conf, name="net/conf"), const([1, boxes, columns], np.int64), name="n/r"
    )
    scores = op("Sigmoid", logits, outputs=["raw_scores"], name="Postprocessor/convert_scores")
    if background:
        scores = op("Slice", scores, const([1], np.int64), const([columns], np.int64), const([2], np.int64))
    kept_scores, kept_boxes, kept_classes = [], [], []
    box_rows = (
        op("Squeeze", decoded, const([0], np.int64)) if opset >= 13 else op("Squeeze", decoded, axes=[0])
    )
    for c in range(classes):
        column = op("Slice", scores, const([c], np.int64), const([c + 1], np.int64), const([2], np.int64))
        column = op("Transpose", column, perm=[0, 2, 1])
        picked = op(
            "NonMaxSuppression", decoded, column, const(per_class, np.int64), const(iou, np.float32),
            const(score, np.float32), name=f"nms_{c}",
        )  # fmt: skip
        index = op("Gather", picked, const(2, np.int64), axis=1)
        count = op("Shape", index)
        missing = op("Sub", const([per_class], np.int64), count)
        row = op("Reshape", column, const([-1], np.int64))
        found = op("Gather", row, index)
        pad = op("Expand", const(-1.0, np.float32), missing)
        kept_scores.append(op("Concat", found, pad, axis=0))
        padded = op("Concat", index, op("Expand", const(0, np.int64), missing), axis=0)
        kept_boxes.append(op("Gather", box_rows, padded))
        kept_classes.append(const(np.full(per_class, c), np.float32))
    all_scores = op("Concat", *kept_scores, axis=0)
    all_boxes = op("Concat", *kept_boxes, axis=0)
    all_classes = op("Concat", *kept_classes, axis=0)
    length = classes * per_class
    op("TopK", all_scores, const([length], np.int64), outputs=["s_sorted", "s_order"], axis=0)
    clipped = op(
        "Min", op("Max", op("Gather", all_boxes, "s_order"), const(0.0, np.float32)), const(1.0, np.float32)
    )
    nodes_axes = {"axis": 1}
    op("Split", clipped, const([1, 1, 1, 1], np.int64), outputs=["y0", "x0", "y1", "x1"], **nodes_axes)
    area = op("Mul", op("Sub", "y1", "y0"), op("Sub", "x1", "x0"))
    area = op("Reshape", area, const([-1], np.int64))
    good = op(
        "And", op("Greater", area, const(0.0, np.float32)), op("Greater", "s_sorted", const(-0.5, np.float32))
    )
    at = op("Reshape", op("Transpose", op("NonZero", good)), const([-1], np.int64))
    first = op("Slice", at, const([0], np.int64), const([total], np.int64))
    number = op("Shape", first)
    room = op("Sub", const([total], np.int64), number)

    def padded_output(value: str, name: str, *, two: bool, offset: int = 0) -> None:
        rows = op("Gather", value, first)
        tail = op("Concat", room, const([4], np.int64), axis=0) if two else room
        rows = op("Concat", rows, op("Expand", const(0.0, np.float32), tail), axis=0)
        if offset:
            rows = op("Add", rows, const(float(offset), np.float32))
        op("Unsqueeze", rows, const([0], np.int64), outputs=[name])

    padded_output(clipped, "detection_boxes", two=True)
    padded_output("s_sorted", "detection_scores", two=False)
    padded_output(op("Gather", all_classes, "s_order"), "detection_classes", two=False, offset=class_offset)
    op("Cast", number, outputs=["num_detections"], to=TensorProto.FLOAT)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detector",
        [value("image", TensorProto.FLOAT, [1, 4, 4, 3])],
        [
            value("num_detections", TensorProto.FLOAT, [1]),
            value("detection_boxes", TensorProto.FLOAT, [1, total, 4]),
            value("detection_scores", TensorProto.FLOAT, [1, total]),
            value("detection_classes", TensorProto.FLOAT, [1, total]),
            value("raw_boxes", TensorProto.FLOAT, [1, boxes, 4]),
            value("raw_scores", TensorProto.FLOAT, [1, boxes, columns]),
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def quantise_scores(model: onnx.ModelProto, levels: int) -> onnx.ModelProto:
    """The model with its converted scores rounded down to a few levels, so that many are equal."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    place, node = next(
        (i, n) for i, n in enumerate(graph.node) if n.op_type == "Sigmoid" and "convert_scores" in n.name
    )
    out = node.output[0]
    node.output[0] = f"{out}_exact"
    graph.initializer.append(numpy_helper.from_array(np.asarray(levels, np.float32), "levels"))
    steps = [
        helper.make_node("Mul", [f"{out}_exact", "levels"], ["q_a"], name="Postprocessor/q_mul"),
        helper.make_node("Floor", ["q_a"], ["q_b"], name="Postprocessor/q_floor"),
        helper.make_node("Div", ["q_b", "levels"], [out], name="Postprocessor/q_div"),
    ]
    for k, step in enumerate(steps, 1):
        graph.node.insert(place + k, step)
    return changed
