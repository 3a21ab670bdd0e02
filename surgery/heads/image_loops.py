"""Loops over the images of a batch (TensorFlow's ``map_fn``) resolved into plain nodes.

Two forms, chosen by how often the body runs, which depends on shapes alone and is observed by running it:

- once: the body takes the loop's place, with iteration 0;
- once per image: the body is applied to the whole batch. It has to take its image by ``Gather`` with a
  one-element index, keep the leading axis of 1 throughout, and squeeze it off at the end; then every node of it
  acts on each image alike.

Either is kept only if it computes the same as the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.convert import constant, value_of
from surgery.graph.view import View, body_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LoopForm = Literal["once", "batch"]


@dataclass(frozen=True, slots=True)
class ResolvedLoop:
    """A loop that is gone: its name, the nodes instead, which form, and the proof's largest difference."""

    node: str
    nodes_after: tuple[str, ...]
    form: LoopForm
    max_abs_error: float


def not_resolvable(node: gs.Node, why: str) -> ConversionError:
    """The error for a loop of another form."""
    return ConversionError(
        f"the loop {node.name!r} over the images cannot be resolved",
        code="image-loop",
        node=node.name,
        cause=why,
        fix="use `input: normalized`, which cuts the preprocessing off",
    )


def resolve(graph: gs.Graph, node: gs.Node, form: LoopForm, needed: Sequence[int]) -> list[gs.Node]:
    """Replace a Loop node by its body, in place.

    Args:
        graph: Graph that holds the node.
        node: The Loop.
        form: See the module's text.
        needed: Positions of the loop's outputs that anything reads; all must be scan outputs.

    Returns:
        The new nodes, in order.

    Raises:
        ConversionError: the body is not of that form.
    """
    import onnx_graphsurgeon as gs

    body = next(iter(node.subgraphs()))
    carried = len(node.inputs) - 2
    if any(i < carried for i in needed):
        raise not_resolvable(node, "a value carried from image to image is used after it")
    counters = _counters(node, body, carried)
    if form == "once":
        for name, dtype in counters.items():
            _swap(body, name, constant(f"{node.name}/{name}/zero", np.asarray(0, dtype)))
        _swap(body, body.inputs[1].name, constant(f"{node.name}/true", np.asarray(True)))
        ends = {i: body.outputs[1 + i] for i in needed}
    else:
        _drop_gathers(node, body, set(counters))
        ends = {i: _before_squeeze(node, body, body.outputs[1 + i]) for i in needed}
    keep = _needed_nodes(body, [t.name for t in ends.values()])
    for child in keep:
        child.name = f"{node.name}/{child.name}"
        for tensor in child.outputs:
            if tensor.name:
                tensor.name = f"{node.name}/{tensor.name}"
            if form != "once":
                tensor.shape = None  # what is known of one image does not hold for a batch
    new = keep if form == "once" else _for_batches(keep)
    for i, end in ends.items():
        outer = node.outputs[i]
        fresh = gs.Variable(outer.name, dtype=end.dtype or outer.dtype, shape=outer.shape)
        if form == "once":
            axes = constant(f"{node.name}/axis0", np.asarray([0], np.int64))
            attrs = {} if graph.opset >= 13 else {"axes": [0]}
            inputs = [end, axes] if graph.opset >= 13 else [end]
            last = gs.Node("Unsqueeze", f"{node.name}/stack_{i}", attrs, inputs, [fresh])
        else:
            last = gs.Node("Identity", f"{node.name}/stack_{i}", {}, [end], [fresh])
        new.append(last)
        from surgery.graph.tidy import replace_uses

        replace_uses(View(graph), outer.name, fresh)
        for k, tensor in enumerate(graph.outputs):
            if tensor.name == outer.name:
                graph.outputs[k] = fresh
        outer.name = f"{outer.name}__loop"
    graph.nodes.extend(new)
    return new


def _for_batches(nodes: Sequence[gs.Node]) -> list[gs.Node]:
    """Nodes of a body, with sizes of one image that are known made sizes of a batch: as many as there are."""
    import onnx_graphsurgeon as gs

    found: list[gs.Node] = []
    for node in nodes:
        sizes = node.inputs[3] if node.op == "Resize" and len(node.inputs) > 3 else None
        value = value_of(sizes).reshape(-1) if isinstance(sizes, gs.Constant) else np.zeros(0, np.int64)
        if value.size > 1 and value[0] == 1:
            sizes_now, count, wanted = (
                gs.Variable(f"{node.name}/{part}", np.dtype(np.int64))
                for part in ("sizes", "count", "wanted")
            )
            bounds = [
                constant(f"{node.name}/{part}", np.asarray([k], np.int64))
                for k, part in enumerate(("first", "end"))
            ]
            rest = constant(f"{node.name}/rest", value[1:].astype(np.int64))
            found += [
                gs.Node("Shape", sizes_now.name, {}, [node.inputs[0]], [sizes_now]),
                gs.Node("Slice", count.name, {}, [sizes_now, *bounds], [count]),
                gs.Node("Concat", wanted.name, {"axis": 0}, [count, rest], [wanted]),
            ]
            node.inputs[3] = wanted
        found.append(node)
    return found


def _counters(node: gs.Node, body: gs.Graph, carried: int) -> dict[str, Any]:
    """Body inputs that always equal the iteration: the iteration itself and counters from 0 in steps of 1."""
    import onnx_graphsurgeon as gs

    found: dict[str, Any] = {body.inputs[0].name: np.int64}
    made = {t.name: child for child in body.nodes for t in child.outputs}
    for i in range(carried):
        start, inner, end = node.inputs[2 + i], body.inputs[2 + i], body.outputs[1 + i]
        step = made.get(end.name)
        if not isinstance(start, gs.Constant) or step is None or step.op != "Add":
            continue
        others = [t for t in step.inputs if t.name != inner.name]
        if len(others) != 1 or not isinstance(others[0], gs.Constant):
            continue
        if value_of(others[0]).reshape(-1).tolist() == [1] and value_of(start).reshape(-1).tolist() == [0]:
            found[inner.name] = value_of(start).dtype
    return found


def _swap(body: gs.Graph, name: str, new: Any) -> None:
    for child in (c for n in body.nodes for c in (n, *body_nodes(n))):
        for i, tensor in enumerate(child.inputs):
            if tensor.name == name:
                child.inputs[i] = new
    for i, tensor in enumerate(body.outputs):
        if tensor.name == name:
            body.outputs[i] = new


def _drop_gathers(node: gs.Node, body: gs.Graph, counters: set[str]) -> None:
    """Let every reader of ``Gather(images, [iteration])`` read the images themselves."""
    made = {t.name: child for child in body.nodes for t in child.outputs}
    local = set(made) | {t.name for t in body.inputs}
    found = False
    for child in list(body.nodes):
        if child.op != "Gather" or child.attrs.get("axis", 0) != 0 or child.inputs[0].name in local:
            continue
        index = made.get(child.inputs[1].name)
        if index is None or index.op != "Unsqueeze" or index.inputs[0].name not in counters:
            raise not_resolvable(node, "an image is not taken by a one-element index")
        _swap(body, child.outputs[0].name, child.inputs[0])
        found = True
    if not found:
        raise not_resolvable(node, "no image is taken by Gather")


def _before_squeeze(node: gs.Node, body: gs.Graph, end: Any) -> Any:
    import onnx_graphsurgeon as gs

    made = {t.name: child for child in body.nodes for t in child.outputs}
    last = made.get(end.name)
    if last is None or last.op != "Squeeze":
        raise not_resolvable(node, "an image's result does not end with the removal of its leading axis")
    axes = last.attrs.get("axes")
    if axes is None and len(last.inputs) > 1 and isinstance(last.inputs[1], gs.Constant):
        axes = value_of(last.inputs[1]).reshape(-1).tolist()
    if list(axes or []) != [0]:
        raise not_resolvable(node, "an image's result does not end with the removal of its leading axis")
    return last.inputs[0]


def _needed_nodes(body: gs.Graph, names: Sequence[str]) -> list[gs.Node]:
    made = {t.name: k for k, child in enumerate(body.nodes) for t in child.outputs}
    keep: set[int] = set()
    stack = [n for n in names if n in made]
    while stack:
        key = made[stack.pop()]
        if key in keep:
            continue
        keep.add(key)
        child = body.nodes[key]
        used = [t.name for c in (child, *body_nodes(child)) for t in c.inputs]
        stack.extend(n for n in used if n in made)
    return [body.nodes[k] for k in sorted(keep)]
