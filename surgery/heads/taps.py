"""Making the operands of NonMaxSuppression nodes visible as model outputs, also out of Loop bodies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

OPERANDS = ("boxes", "scores", "max_output_boxes_per_class", "iou_threshold", "score_threshold")


@dataclass(frozen=True, slots=True)
class Tap:
    """One NonMaxSuppression node, seen from outside.

    Attributes:
        node: Its name.
        operands: For each of :data:`OPERANDS` the name of the model output that shows it, or None if the node
            does not have it. Operands from Loop bodies have one leading dim more per loop: the iteration.
        depth: How many loops it lies in.
        center_point_box: The attribute of that name.
    """

    node: str
    operands: tuple[str | None, ...]
    depth: int
    center_point_box: int


def tap_nms(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Tap]]:
    """A copy of `model` that also outputs the operands of all its NonMaxSuppression nodes."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    counter = iter(range(1 << 30))
    taps = list(_tap_graph(tapped.graph, counter))
    present = {o.name for o in tapped.graph.output}
    for tap in taps:
        for name in tap.operands:
            if name is not None and name not in present:
                present.add(name)
                tapped.graph.output.append(onnx.ValueInfoProto(name=name))
    return tapped, taps


def _tap_graph(graph: onnx.GraphProto, counter: Iterator[int]) -> Iterator[Tap]:
    import onnx

    added: list[onnx.NodeProto] = []

    def show(name: str) -> str:
        # A copy under a new name: an operand may be an initializer or captured from outside, neither of
        # which may be a graph output as it is.
        seen = f"surgery_tap_{next(counter)}"
        added.append(onnx.helper.make_node("Identity", [name], [seen], name=seen))
        return seen

    for node in graph.node:
        if node.op_type == "NonMaxSuppression":
            inputs = list(node.input) + [""] * (5 - len(node.input))
            names = tuple(show(name) if name else None for name in inputs[:5])
            center = next((a.i for a in node.attribute if a.name == "center_point_box"), 0)
            yield Tap(node.name, names, 0, center)
        elif node.op_type == "Loop":
            body = next(a.g for a in node.attribute if a.name == "body")
            for tap in list(_tap_graph(body, counter)):
                outer: list[str | None] = []
                for name in tap.operands:
                    if name is None:
                        outer.append(None)
                        continue
                    body.output.append(onnx.ValueInfoProto(name=name))
                    lifted = f"surgery_tap_{next(counter)}"
                    node.output.append(lifted)
                    outer.append(lifted)
                yield Tap(tap.node, tuple(outer), tap.depth + 1, tap.center_point_box)
    graph.node.extend(added)


def nms_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All NonMaxSuppression nodes of a graph, bodies included."""
    return (n for n in all_nodes(graph.node) if n.op_type == "NonMaxSuppression")
