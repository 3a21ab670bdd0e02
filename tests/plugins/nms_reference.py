"""The reference for native suppression: ONNX Runtime's NonMaxSuppression per class, merged with numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from surgery.plugins.native_nms import NmsSpec


@lru_cache(maxsize=64)
def _session(per_class: int, iou: float, score: float, center: bool) -> ort.InferenceSession:
    """boxes [1,N,4], scores [1,1,N] -> selected [D,3]."""

    def const(name: str, value: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))

    nodes = [
        const("m", np.array([per_class], np.int64)),
        const("t", np.array([iou], np.float32)),
        const("s", np.array([score], np.float32)),
        helper.make_node(
            "NonMaxSuppression", ["boxes", "scores", "m", "t", "s"], ["picked"], center_point_box=int(center)
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "nms",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, None]),
        ],
        [helper.make_tensor_value_info("picked", TensorProto.INT64, [None, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_nms(boxes: np.ndarray, scores: np.ndarray, per_class: int, spec: NmsSpec) -> np.ndarray:
    """Rows of boxes [N,4] that ONNX Runtime keeps, in its order."""
    session = _session(per_class, spec.iou_threshold, spec.score_threshold, spec.center_point_box)
    picked = session.run(None, {"boxes": boxes[None], "scores": scores[None, None]})[0]
    return picked[:, 2]


@dataclass
class Result:
    count: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    indices: np.ndarray


def reference(spec: NmsSpec, boxes: np.ndarray, scores: np.ndarray) -> Result:
    """What `nms_function` promises: NonMaxSuppression by ONNX Runtime, the rest in numpy."""
    batch, k = len(scores), spec.max_total
    out = Result(
        np.zeros(batch, np.int32),
        np.full((batch, k, 4), spec.pad_box, np.float32),
        np.full((batch, k), spec.pad_score, np.float32),
        np.full((batch, k), spec.pad_class, np.int32),
        np.full((batch, k), spec.pad_index, np.int32),
    )
    for image in range(batch):
        rows = _one_image(spec, boxes[image], scores[image])
        out.count[image] = len(rows)
        for i, (score, c, n, box) in enumerate(rows):
            out.boxes[image, i], out.scores[image, i] = box, score
            out.classes[image, i], out.indices[image, i] = c, n
    return out


def _clip(spec: NmsSpec, box: np.ndarray) -> np.ndarray:
    if spec.clip_window is None:
        return box
    low, high = (
        np.array(spec.clip_window, np.float32)[[0, 1, 0, 1]],
        np.array(spec.clip_window, np.float32)[[2, 3, 2, 3]],
    )
    return np.minimum(np.maximum(box, low), high)


def _one_image(
    spec: NmsSpec, boxes: np.ndarray, scores: np.ndarray
) -> list[tuple[float, int, int, np.ndarray]]:
    """Rows (score, class, index, box) of one image."""
    if spec.shared_boxes:
        boxes = np.repeat(boxes[:, None], spec.num_classes, axis=1)
    wanted = [c for c in range(spec.num_classes) if c != spec.background_class]
    pairs = [(c, n) for c in wanted for n in range(spec.num_boxes)]
    if spec.box_major_ties:
        pairs.sort(key=lambda p: (p[1], p[0]))
    if spec.class_agnostic:
        flat_boxes = np.stack([boxes[n, c] for c, n in pairs])
        flat_scores = np.array([scores[n, c] for c, n in pairs], np.float32)
        picked = [pairs[i] for i in ort_nms(flat_boxes, flat_scores, spec.max_per_class, spec)]
    else:
        picked = []
        for c in wanted:
            keep = ort_nms(boxes[:, c], scores[:, c].copy(), spec.max_per_class, spec)
            picked += [(c, int(n)) for n in keep]
    rows = [(scores[n, c], c, n, _clip(spec, boxes[n, c])) for c, n in picked]
    if spec.prune_empty:
        rows = [r for r in rows if (r[3][2] - r[3][0]) * (r[3][3] - r[3][1]) > 0]
    if spec.box_major_ties:
        rows.sort(key=lambda r: (r[2], r[1]))
    order = np.argsort(-np.array([r[0] for r in rows], np.float32), kind="stable")
    return [rows[i] for i in order[: spec.max_total]]


def make_inputs(
    rng: np.random.Generator,
    spec: NmsSpec,
    batch: int,
    *,
    levels: int | None = None,
    duplicates: bool = False,
    swapped: bool = False,
    flat: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that overlap a lot and scores; `levels` quantises the scores into so many steps."""
    n, c = spec.num_boxes, spec.num_classes
    centre = rng.uniform(0.1, 0.9, (batch, n, c, 2))
    size = rng.uniform(0.02, 0.35, (batch, n, c, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    if spec.center_point_box:
        boxes = np.concatenate([centre, size], axis=-1)
    if duplicates:
        boxes = boxes[:, rng.integers(0, max(n // 3, 1), n)]
    if swapped:
        turn = rng.random((batch, n, c, 1)) < 0.5
        boxes = np.where(turn, boxes[..., [2, 3, 0, 1]], boxes)
    if flat:
        boxes[rng.random((batch, n, c)) < 0.3, 2] = 0.25
        boxes[rng.random((batch, n, c)) < 0.3, 0] = 0.25
    boxes = boxes.astype(np.float32)
    scores = rng.uniform(0, 1, (batch, n, c))
    if levels:
        scores = np.round(scores * levels) / levels
    return (boxes[:, :, 0] if spec.shared_boxes else boxes), scores.astype(np.float32)
