"""Body of MultiClassNMS: the native suppression, configured from the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.native_nms import NmsSpec, choose_form, emit_nms

if TYPE_CHECKING:
    import onnx

# Attributes that are fields of NmsSpec under the same name.
_FLAGS = ("class_agnostic", "suppress_at_equal", "keep_at_equal", "prune_empty", "center_point_box")
_VALUES = (
    "max_total",
    "max_per_class",
    "iou_threshold",
    "score_threshold",
    "background_class",
    "candidates_per_class",
    "candidates_per_image",
    "pad_score",
    "pad_class",
    "pad_box",
    "pad_index",
)


def spec_of(attributes: Mapping[str, Any], boxes: int, classes: int, shared: bool) -> NmsSpec:
    """The specification of a node with `boxes` boxes and `classes` columns of scores."""
    window = attributes["clip_window"]
    return NmsSpec(
        num_boxes=boxes,
        num_classes=classes,
        shared_boxes=shared,
        clip_window=None if window is None else (window[0], window[1], window[2], window[3]),
        **{name: bool(attributes[name]) for name in _FLAGS},
        **{name: attributes[name] for name in _VALUES},
    )


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    given = node.inputs[0]
    shared = given is None or given.shape is None or len(given.shape) == 3
    try:
        spec = spec_of(node.attributes, node.static(1, 1), node.static(1, 2), shared)
    except ValueError as error:
        raise node.refuse(str(error)) from error
    form = node.attributes["form"]
    b = Body(node.opset)
    r = emit_nms(
        b,
        spec,
        *node.input_names,
        form=choose_form(spec, node.batch(1)) if form == "auto" else form,
    )
    return node.function(b, (r.count, r.boxes, r.scores, r.classes, r.indices))
