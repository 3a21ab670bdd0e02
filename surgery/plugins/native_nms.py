"""Exact greedy non-maximum suppression in plain ONNX operators, with outputs of fixed size.

TensorRT-RTX has neither NonMaxSuppression nor NonZero, and full TensorRT's NonMaxSuppression has an output
whose size depends on the data. The functions here use neither. For finite inputs the result equals, bit for
bit, ONNX Runtime's NonMaxSuppression run class by class, its results concatenated and sorted by score with
a stable sort (what TensorFlow exports do). They run in ONNX Runtime and build on TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.nms_forms import Selected, best_only, fixpoint_form, select_form
from surgery.plugins.nms_spec import Form, NmsSpec, choose_form

if TYPE_CHECKING:
    import onnx

__all__ = ["Form", "NmsOutputs", "NmsSpec", "choose_form", "emit_nms", "nms_function"]

INPUTS = ("boxes", "scores")
OUTPUTS = ("count", "out_boxes", "out_scores", "out_classes", "out_indices")


@dataclass(frozen=True, slots=True)
class NmsOutputs:
    """Names of the results: B images, K rows of which the first `count` are detections.

    Attributes:
        count: [B] int32.
        boxes: [B, K, 4] float32, in the coordinates of the input.
        scores: [B, K] float32.
        classes: [B, K] int32, column of the scores input.
        indices: [B, K] int32, row of the boxes input.
    """

    count: str
    boxes: str
    scores: str
    classes: str
    indices: str


def nms_function(
    spec: NmsSpec, *, domain: str, name: str, opset: int, form: Form | None = None
) -> onnx.FunctionProto:
    """The suppression as a model-local function.

    Inputs: boxes float32 [B, N, 4] (or [B, N, C, 4] without `shared_boxes`), scores float32 [B, N, C].
    Outputs: count int32 [B], boxes float32 [B, K, 4], scores float32 [B, K], classes int32 [B, K],
    indices int32 [B, K] (rows of the boxes input).

    Order of the rows: score descending, equal scores by class ascending, then by order of selection within
    the class. Rows beyond the count hold the padding values. IoU is computed as in ONNX Runtime 1.31
    (core/providers/cpu/object_detection/non_max_suppression.cc).

    Args:
        spec: What to compute.
        domain: Domain of the function.
        name: Name of the function.
        opset: Default-domain opset of the model, 11 to 24.
        form: `select` or `fixpoint`; None picks by size.

    Raises:
        ValueError: the opset is out of range.
    """
    b = Body(opset)
    result = emit_nms(b, spec, *INPUTS, form=form)
    for value, fixed in zip(
        (result.count, result.boxes, result.scores, result.classes, result.indices), OUTPUTS, strict=True
    ):
        b.alias(value, fixed)
    return b.function(domain, name, INPUTS, OUTPUTS, doc="Exact greedy non-maximum suppression.")


def emit_nms(
    b: Body,
    spec: NmsSpec,
    boxes: str,
    scores: str,
    *,
    form: Form | None = None,
    select: Callable[..., Selected] | None = None,
) -> NmsOutputs:
    """Write the suppression into a body; see `nms_function` for the meaning of inputs and outputs.

    `select`, with the parameters of `select_form`, takes its place where boxes are no upright rectangles.
    """
    flat_boxes, shared = _boxes_by_group(b, spec, boxes)
    candidates = _candidates(b, spec, scores)
    write = fixpoint_form if (form or choose_form(spec)) == "fixpoint" else select_form
    selected = (select or write)(b, spec, flat_boxes, candidates, shared=shared)
    return _Merge(b, spec, flat_boxes, shared).run(selected)


def _without_background(b: Body, spec: NmsSpec, value: str, axis: int) -> str:
    if not spec.has_background:
        return value
    at, end = spec.background_class, spec.num_classes
    pieces = [b.slice(value, axis, lo, hi) for lo, hi in ((0, at), (at + 1, end)) if lo < hi]
    return b.concat(pieces, axis)


def _boxes_by_group(b: Body, spec: NmsSpec, boxes: str) -> tuple[str, bool]:
    """Boxes as [B, rows, 4]: rows are boxes shared by all groups, or (group, candidate) pairs."""
    pairs = spec.classes * spec.num_boxes
    in_one_list = spec.class_agnostic and spec.box_major_ties
    if not spec.shared_boxes:
        wanted = _without_background(b, spec, boxes, 2)
        listed = wanted if in_one_list else b.transpose(wanted, 0, 2, 1, 3)
        return b.reshape(listed, 0, pairs, 4), False
    if spec.class_agnostic and spec.classes > 1:
        wide = (1, 1, spec.classes, 1) if in_one_list else (1, spec.classes, 1, 1)
        return b.reshape(b.expand(b.unsqueeze(boxes, 2 if in_one_list else 1), *wide), 0, pairs, 4), False
    return boxes, True


def _candidates(b: Body, spec: NmsSpec, scores: str) -> str:
    """Scores as [B, G, N] with everything that takes no part set to `SMALLEST`."""
    by_box = _without_background(b, spec, scores, 2)
    limit = b.scalar(spec.score_threshold)
    passes = (b.greater_equal if spec.keep_at_equal else b.greater)(by_box, limit)
    value = b.transpose(b.where(passes, by_box, b.scalar(SMALLEST)), 0, 2, 1)
    boxes, classes = spec.num_boxes, spec.classes
    if spec.candidates_per_class is not None:
        value = best_only(b, value, boxes, spec.candidates_per_class)
    if spec.box_major_ties:
        value = b.transpose(value, 0, 2, 1)
    if spec.candidates_per_image is not None and spec.candidates_per_image < boxes * classes:
        value = best_only(
            b, b.reshape(value, 0, 1, boxes * classes), boxes * classes, spec.candidates_per_image
        )
    if spec.box_major_ties and not spec.class_agnostic:
        value = b.transpose(b.reshape(value, 0, boxes, classes), 0, 2, 1)
    return b.reshape(value, 0, spec.groups, spec.group_size)


class _Merge:
    """Puts the groups' detections into one list per image, takes the best K and pads."""

    def __init__(self, b: Body, spec: NmsSpec, boxes: str, shared: bool) -> None:
        self.b, self.spec, self.boxes, self.shared = b, spec, boxes, shared
        self.length = spec.groups * spec.rounds

    def run(self, selected: Selected) -> NmsOutputs:
        b, spec = self.b, self.spec
        scores = b.reshape(selected.scores, 0, self.length)
        positions = b.reshape(selected.positions, 0, self.length)
        if spec.prune_empty:
            scores = self._without_empty(scores, positions)
        if spec.groups > 1 or spec.prune_empty:
            ties, span = self._tie_positions(scores, positions)
            order = best_first(b, scores, ties, span, min(spec.max_total, self.length))
            at = b.cast(order, np.int32)
            scores = b.gather_elements(scores, at, 1)
            positions = b.gather_elements(positions, at, 1)
            group = b.div(at, b.const(spec.rounds, np.int32))
        else:
            group = None  # a single group is in its final order
        return self._write(scores, b.cast(positions, np.int32), group)

    def _without_empty(self, scores: str, positions: str) -> str:
        b, spec = self.b, self.spec
        at = b.cast(positions, np.int32)
        if spec.groups > 1 and not self.shared:
            groups = np.repeat(np.arange(spec.groups), spec.rounds)
            at = b.add(at, b.const(groups.reshape(1, -1) * spec.group_size, np.int32))
        c0, c1, c2, c3 = b.split(self._box_rows(at), -1, 4)
        area = b.squeeze(b.mul(b.sub(c2, c0), b.sub(c3, c1)), 2)
        return b.where(b.greater(area, b.scalar(0.0)), scores, b.scalar(SMALLEST))

    def _box_rows(self, rows: str) -> str:
        """Clamped boxes [B, R, 4] at rows [B, R] of the boxes."""
        b, window = self.b, self.spec.clip_window
        found = b.gather_elements(self.boxes, b.expand(b.unsqueeze(rows, 2), 1, 1, 4), 1)
        if window is None:
            return found
        low, high = b.floats(window[0], window[1]), b.floats(window[2], window[3])
        pairs = b.concat([low, low], 0), b.concat([high, high], 0)
        return b.minimum(b.maximum(found, pairs[0]), pairs[1])

    def _tie_positions(self, scores: str, positions: str) -> tuple[str, int]:
        """What decides between equal scores: [1 or B, L], distinct within an image; and its bound."""
        b, spec = self.b, self.spec
        here = np.arange(self.length).reshape(1, -1)
        if not spec.box_major_ties:
            return b.const(here), self.length
        by_class = b.const(here // spec.rounds)
        in_memory = b.add(b.mul(positions, b.scalar(float(spec.classes))), by_class)
        pairs = spec.num_boxes * spec.classes
        # Rows without a detection name arbitrary boxes: they get positions of their own, behind all others.
        valid = b.greater(scores, b.scalar(SMALLEST))
        return b.where(valid, in_memory, b.const(here + pairs)), pairs + self.length

    def _write(self, scores: str, positions: str, group: str | None) -> NmsOutputs:
        b, spec = self.b, self.spec
        valid = b.greater(scores, b.scalar(SMALLEST))
        count = b.cast(b.reduce("ReduceSum", b.cast(valid, np.float32), 1, keepdims=False), np.int32)
        rows = positions
        if spec.class_agnostic and spec.classes > 1:
            size = b.const(spec.classes if spec.box_major_ties else spec.num_boxes, np.int32)
            major = b.div(positions, size)
            minor = b.sub(positions, b.mul(major, size))
            group, index = (minor, major) if spec.box_major_ties else (major, minor)
        else:
            index = positions
            if group is not None and spec.groups > 1 and not self.shared:
                rows = b.add(positions, b.mul(group, b.const(spec.num_boxes, np.int32)))
        if group is None:
            group = b.mul(positions, b.const(0, np.int32))
        classes = group
        if spec.has_background:
            skip = b.greater(b.cast(group, np.float32), b.scalar(spec.background_class - 0.5))
            classes = b.add(group, b.cast(skip, np.int32))
        flags = b.unsqueeze(valid, 2)
        return NmsOutputs(
            count=count,
            boxes=self._padded(b.where(flags, self._box_rows(rows), b.scalar(spec.pad_box)), spec.pad_box, 3),
            scores=self._padded(b.where(valid, scores, b.scalar(spec.pad_score)), spec.pad_score, 2),
            classes=self._integers(valid, classes, spec.pad_class),
            indices=self._integers(valid, index, spec.pad_index),
        )

    def _integers(self, valid: str, value: str, pad: int) -> str:
        b = self.b
        chosen = b.where(valid, value, b.const(pad, np.int32))
        if self._missing() == 0:
            return chosen
        # Pad works on floats everywhere; these integers are small enough to be exact.
        return b.cast(self._padded(b.cast(chosen, np.float32), float(pad), 2), np.int32)

    def _missing(self) -> int:
        return max(self.spec.max_total - self.length, 0)

    def _padded(self, value: str, fill: float, rank: int) -> str:
        """Rows up to K where there can never be so many detections."""
        if self._missing() == 0:
            return value
        pads = [0] * (2 * rank)
        pads[rank + 1] = self._missing()
        return self.b.op("Pad", value, self.b.ints(*pads), self.b.scalar(fill))


def best_first(b: Body, scores: str, ties: str, span: int, count: int) -> str:
    """Positions [B, count] (as floats) of the best of scores [B, L], in the final order.

    TopK finds the threshold and then, among keys that are all distinct, the members; so nothing
    depends on how TopK orders equal values. Their order follows from counting who comes before whom.
    """
    top, _ = b.topk(scores, count)
    limit = b.slice(top, 1, count - 1, count)
    tied = b.where(b.equal(scores, limit), b.sub(b.scalar(float(span)), ties), b.scalar(0.0))
    key = b.where(b.greater(scores, limit), b.sub(b.scalar(3.0 * span), ties), tied)
    found_keys, members = b.topk(key, count)
    found = b.gather_elements(scores, members, 1)
    place = b.cast(members, np.float32)
    # Among equal scores the key falls as the tie position rises, so comparing keys compares positions.
    mine, other = b.unsqueeze(found, 2), b.unsqueeze(found, 1)
    my_key, other_key = b.unsqueeze(found_keys, 2), b.unsqueeze(found_keys, 1)
    before = b.logical_or(
        b.greater(other, mine), b.logical_and(b.equal(other, mine), b.greater(other_key, my_key))
    )
    rank = b.reduce("ReduceSum", b.cast(before, np.float32), 2, keepdims=False)
    row = b.const(np.arange(count, dtype=np.float32).reshape(1, count, 1))
    at_row = b.equal(b.unsqueeze(rank, 1), row)
    return b.reduce("ReduceSum", b.where(at_row, b.unsqueeze(place, 1), b.scalar(0.0)), 2, keepdims=False)
