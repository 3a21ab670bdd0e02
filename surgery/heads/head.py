"""What a detection head is, once it has been read off its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from surgery.errors import ConversionError
from surgery.graph.cut import Cut
from surgery.heads.nms_reference import NmsParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

Role = Literal["count", "boxes", "scores", "classes", "anchors", "rows"]
Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class OutputRole:
    """What one output of the head is.

    Attributes:
        name: The tensor.
        role: count [B]; boxes [B, K, 4]; scores, classes, anchors [B, K]; rows [B, K, X] are rows of `source`.
        dtype: Numpy name.
        ndim: Rank; a count may be [B] or [B, 1].
        offset: What is added to class or anchor numbers.
        pad: Value in the rows beyond the count.
        source: For rows: the tensor [B, N, X] they are taken from.
    """

    name: str
    role: Role
    dtype: str
    ndim: int
    offset: int = 0
    pad: float = 0.0
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DetectionHead:
    """A post-processing as read off its graph.

    Attributes:
        boxes: Tensor of the decoded boxes, [B, N, 4] or [B, N, 1, 4].
        scores: Tensor of the scores that take part, [B, N, C].
        num_boxes: N.
        num_classes: C.
        parameters: Operands of the suppression.
        max_total: K, rows of the outputs.
        clip_window: Range that the first and second coordinate are clipped to after suppression.
        prune_empty: Whether boxes that clipping leaves without area are removed before the best K are taken.
        outputs: Roles of all outputs.
        cut: Nodes between boxes, scores and the outputs.
        fixed_inputs: Other inputs of the cut that depend on no image, with their value for one image.
        batch: Images per run where that is fixed, else None.
        boxes_ndim: Rank of `boxes`.
        nms_nodes: Names of the suppression nodes.
        row_widths: X of every tensor [B, N, X] that an output's rows are taken from.
    """

    boxes: str
    scores: str
    num_boxes: int
    num_classes: int
    parameters: NmsParameters
    max_total: int
    clip_window: tuple[float, float, float, float] | None
    prune_empty: bool
    outputs: tuple[OutputRole, ...]
    cut: Cut
    batch: int | None
    boxes_ndim: int
    nms_nodes: tuple[str, ...]
    row_widths: Mapping[str, int] = field(default_factory=dict)
    fixed_inputs: Mapping[str, Any] = field(default_factory=dict)

    def output(self, role: Role) -> OutputRole | None:
        """The output with that role, or None."""
        return next((o for o in self.outputs if o.role == role), None)


def refuse(message: str, *, cause: str | None = None, node: str | None = None) -> ConversionError:
    """The error for a head that is not of a form that is known here."""
    return ConversionError(
        message,
        code="head-not-recognised",
        where="substitute.detections",
        node=node,
        cause=cause,
        fix="point at the head by boundary tensors (cuts.NAME.inputs/outputs), or leave it out",
    )
