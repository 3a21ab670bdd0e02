"""What a non-maximum suppression has to do, and which of the two native forms suits its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Form = Literal["select", "fixpoint"]

TOPK_LIMIT = 3840
"""Largest K that TensorRT's TopK layer takes (TensorRT documentation, ITopKLayer)."""

MAX_PAIRS = 2**24 // 6
"""Most (box, class) pairs of an image. Positions are carried as float32, exact up to 2**24, and the keys that
order detections reach six times the number of pairs."""

FIXPOINT_PAIRS = 4 * 1024 * 1024
"""Most (image, class, i, j) pairs the fixpoint form may hold: about 16 MB a matrix in float32, and no more
than ten matrices at once in ONNX Runtime, which fuses nothing."""


@dataclass(frozen=True, slots=True)
class NmsSpec:
    """One configured non-maximum suppression over `scores` [B, N, C] and `boxes` [B, N, 4] or [B, N, C, 4].

    Attributes:
        num_boxes: N, boxes per image.
        num_classes: C, columns of `scores`.
        max_total: K, rows of the outputs.
        max_per_class: most detections of one class, or of the image if class-agnostic, before `prune_empty`.
        iou_threshold: IoU above which a lower-ranked box is suppressed, 0 to 1.
        score_threshold: score a candidate has to exceed; any finite number.
        shared_boxes: boxes are [B, N, 4], the same for all classes; else [B, N, C, 4].
        class_agnostic: a kept box suppresses boxes of every class.
        suppress_at_equal: suppress at IoU >= threshold (EfficientNMS), not > (ONNX NonMaxSuppression).
        keep_at_equal: keep at score >= threshold (EfficientNMS), not >.
        background_class: class that is never detected; -1 for none.
        candidates_per_class: only so many best candidates of a class take part (topK of BatchedNMS, NMS_TRT).
        candidates_per_image: only so many best candidates of an image take part (EfficientNMS).
        clip_window: (min of coordinates 0 and 2, min of 1 and 3, max of 0 and 2, max of 1 and 3) that the
            boxes written are clamped to; suppression sees the unclamped boxes.
        prune_empty: kept boxes that have no area (product of the signed sides, after `clip_window`) are
            removed after suppression and before the best K are taken, as the TensorFlow Object Detection
            API does.
        box_major_ties: equal scores are ordered by box and then by class (the order of the scores in memory,
            as EfficientNMS sorts them), not by class and then by order of selection.
        center_point_box: boxes are (x centre, y centre, width, height) and not two corners.
        in_pixels: the IoU of TensorRT's SSD plugins for boxes in pixels: areas of boxes count a pixel more on
            each side, and those of intersections too with `pixels_overlap`, where boxes that do not meet
            then have one pixel in common.
        pixels_overlap: see `in_pixels`.
        pad_score: value of the score rows beyond the count.
        pad_class: class of those rows.
        pad_box: each coordinate of those rows.
        pad_index: index of those rows.

    Raises:
        ValueError: on a combination that cannot be computed; the text names the field.
    """

    num_boxes: int
    num_classes: int
    max_total: int
    max_per_class: int
    iou_threshold: float
    score_threshold: float
    shared_boxes: bool = True
    class_agnostic: bool = False
    suppress_at_equal: bool = False
    keep_at_equal: bool = False
    background_class: int = -1
    candidates_per_class: int | None = None
    candidates_per_image: int | None = None
    clip_window: tuple[float, float, float, float] | None = None
    prune_empty: bool = False
    box_major_ties: bool = False
    center_point_box: bool = False
    in_pixels: bool = False
    pixels_overlap: bool = False
    pad_score: float = 0.0
    pad_class: int = 0
    pad_box: float = 0.0
    pad_index: int = 0

    def __post_init__(self) -> None:
        for name in ("num_boxes", "num_classes", "max_total", "max_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("candidates_per_class", "candidates_per_image"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 2 * TOPK_LIMIT:
                raise ValueError(f"{name} is {value}; it must be within 1..{2 * TOPK_LIMIT}")
        if not 0.0 <= self.iou_threshold <= 1.0:
            raise ValueError(f"iou_threshold is {self.iou_threshold}; it must be within 0..1")
        if self.suppress_at_equal and self.iou_threshold <= 0.0:
            raise ValueError("iou_threshold must be above 0 where suppression is at IoU >= threshold")
        if not math.isfinite(self.score_threshold) or abs(self.score_threshold) > 3.4e38:
            raise ValueError(f"score_threshold is {self.score_threshold}; it must be a finite float32")
        if self.center_point_box and (self.clip_window is not None or self.prune_empty):
            raise ValueError("clip_window and prune_empty need boxes given by corners")
        if self.pixels_overlap and not self.in_pixels:
            raise ValueError("pixels_overlap is for boxes that are in_pixels")
        if self.class_agnostic and self.classes > 1 and self.max_per_class < self.max_total:
            raise ValueError("class_agnostic takes no max_per_class below max_total")
        if not self.classes:
            raise ValueError("the background class is the only class")
        if self.num_boxes * self.num_classes > MAX_PAIRS:
            raise ValueError(
                f"{self.num_boxes} boxes x {self.num_classes} classes: positions beyond "
                f"{MAX_PAIRS} are not exact in float32"
            )

    @property
    def has_background(self) -> bool:
        """Whether the background class is one of the columns."""
        return 0 <= self.background_class < self.num_classes

    @property
    def classes(self) -> int:
        """Classes that can be detected."""
        return self.num_classes - self.has_background

    @property
    def groups(self) -> int:
        """Independent suppressions per image: one per class, or one in all if class-agnostic."""
        return 1 if self.class_agnostic else self.classes

    @property
    def group_size(self) -> int:
        """Candidates in one group: boxes, or (class, box) pairs if class-agnostic."""
        return self.num_boxes * self.classes if self.class_agnostic else self.num_boxes

    @property
    def rounds(self) -> int:
        """M: most detections of one group that can matter for the result."""
        most = min(self.max_per_class, self.group_size)
        if self.candidates_per_class is not None and not self.class_agnostic:
            most = min(most, self.candidates_per_class)
        # Removing empty boxes may pull up detections from beyond the first K of a class.
        return most if self.prune_empty else min(most, self.max_total)


def choose_form(spec: NmsSpec, batch: int | None = None) -> Form:
    """The native form for this size.

    `fixpoint` compares all pairs once and then needs a few matrix-vector products: fastest for few
    classes and up to about two thousand boxes. `select` takes one box per class and round, with memory
    proportional to the number of scores. Measured on an H200: 2 x 1000 boxes, one class, K = 100 take
    0.15 ms as fixpoint; 90 classes x 1917 boxes, 100 per class, take 1.34 ms as select.

    Args:
        spec: What to compute.
        batch: Largest batch size; None where it is open (counted as 4).
    """
    pairs = (batch or 4) * spec.groups * spec.group_size**2
    return "fixpoint" if pairs <= FIXPOINT_PAIRS and spec.rounds <= TOPK_LIMIT else "select"
