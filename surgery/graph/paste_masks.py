"""Loops that paste masks into an image, mask by mask, as two products for all masks at once.

torchvision exports ``paste_masks_in_image`` as a Loop: each round resizes one mask to the size of its box, which is
data, cuts off what is outside the image, and puts zeros around it. Every pixel of the result is a mean of pixels of
the mask whose weights follow from the box, along rows and along columns by themselves, so nothing has a size that
depends on data.

A loop is taken for one of these by what it reads, and only if it computes the same: it is run on boxes inside the
image, across each of its edges and outside.

Source: torchvision/models/detection/roi_heads.py, _onnx_paste_masks_in_image_loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import MAX_OPSET, MIN_OPSET, Body
from surgery.graph.convert import constant, extract, value_of
from surgery.graph.editor import Editor
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import captured_names

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

RULE = "paste-masks-by-products"
"""Name under which the report tells of it."""

TOLERANCE = 1e-5
"""Largest difference, of masks between 0 and 1, at which both count as the same."""

PASSED_ON = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"})
"""Operators between the size of a tensor and the number of rounds."""

IMAGES = ((9, 14), (16, 11))
"""Heights and widths of the images that a loop is tried on."""


@dataclass(frozen=True)
class Paste:
    """A loop that pastes masks.

    Attributes:
        node: The Loop.
        masks: float [N, 1, h, w].
        boxes: int64 [N, 4]: left, top, right, bottom, of which the last two are inside.
        height: Whole number [1]: height of the image.
        width: The same of its width.
        known: Further tensors of one element that are the height (0) or the width (1).
    """

    node: gs.Node
    masks: Any
    boxes: Any
    height: Any
    width: Any
    known: tuple[tuple[Any, int], ...] = ()


@dataclass(frozen=True)
class Pasted:
    """What was done with a loop: its name, the nodes in its place, and the largest difference that was seen."""

    node: str
    made: tuple[str, ...]
    error: float


def resolve_pastes(graph: gs.Graph, provenance: dict[str, dict[str, str]]) -> list[Pasted]:
    """Replace the loops of a graph that paste masks, in place.

    Args:
        graph: The graph, with types inferred and constants folded.
        provenance: Gets the metadata of new nodes.
    """
    done = []
    if not MIN_OPSET <= int(graph.opset) <= MAX_OPSET:
        return []
    for node in [n for n in graph.nodes if n.op == "Loop"]:
        found = _candidate(graph, node)
        if found is None:
            continue
        body = _write(found, int(graph.opset))
        error = _difference(graph, found, body)
        if error is not None and error <= TOLERANCE:
            done.append(Pasted(node.name, _replace(graph, found, body, provenance), error))
    return done


def _candidate(graph: gs.Graph, node: gs.Node) -> Paste | None:
    """What a loop may paste where."""
    import onnx_graphsurgeon as gs

    body = node.attrs["body"]
    if len(node.inputs) != 3 or len(body.inputs) != 3 or len(body.outputs) != 2:
        return None
    if not any(n.op == "Resize" and n.attrs.get("mode") == "linear" for n in body.nodes):
        return None
    sizes = _image(node.inputs[2])
    if sizes is None or not _appends(body) or not _always(node, body):
        return None
    tensors = graph.tensors()
    own = {t.name for n in body.nodes for t in n.outputs} | {t.name for t in body.inputs}
    read = [tensors[n] for n in dict.fromkeys(captured_names(body)) if n not in own and n in tensors]
    read = [t for t in read if not isinstance(t, gs.Constant)]
    masks = [t for t in read if _is(t, 4, np.float32)]
    boxes = [t for t in read if _is(t, 2, np.int64)]
    known = [(t, k) for k, tensor in enumerate(sizes) for t in _chain(tensor)]
    others = {t.name for t in read} - {t.name for t in (*masks, *boxes, node.inputs[1])}
    if len(masks) != 1 or len(boxes) != 1 or others - {t.name for t, _ in known}:
        return None
    if not _counts(node.inputs[0], masks[0]):
        return None
    return Paste(node, masks[0], boxes[0], *sizes, tuple(known))


def _image(empty: Any) -> tuple[Any, Any] | None:
    """Height and width of the image, from the tensor [0, height, width] that a loop begins with."""
    import onnx_graphsurgeon as gs

    node = _producer(empty)
    if node is not None and node.op == "ConstantOfShape":
        shape = node.inputs[0]
        made = _producer(shape)
        if made is not None and made.op == "Concat" and len(made.inputs) == 3:
            first, *parts = made.inputs
            if not isinstance(first, gs.Constant) or value_of(first).tolist() != [0]:
                return None
            return (parts[0], parts[1]) if all(_is(p, 1, np.int64) for p in parts) else None
        dims = value_of(shape).tolist() if isinstance(shape, gs.Constant) else []
    else:
        dims = list(empty.shape) if isinstance(empty, gs.Constant) else []
    if len(dims) != 3 or dims[0] != 0:
        return None
    found = [constant(f"{empty.name}/{k}", np.asarray([d], np.int64)) for k, d in enumerate(dims[1:])]
    return found[0], found[1]


def _chain(tensor: Any) -> list[Any]:
    """A size, and what it is made of by a change of layout: each of one element."""
    import onnx_graphsurgeon as gs

    found: list[Any] = []
    while isinstance(tensor, gs.Variable) and tensor.shape is not None and list(tensor.shape) in ([], [1]):
        found.append(tensor)
        node = _producer(tensor)
        if node is None or node.op not in PASSED_ON:
            break
        tensor = node.inputs[0]
    return found


def _is(tensor: Any, rank: int, dtype: Any) -> bool:
    shape, kind = tensor.shape, tensor.dtype
    return shape is not None and len(shape) == rank and kind is not None and np.dtype(kind) == dtype


def _producer(tensor: Any) -> Any:
    return tensor.inputs[0] if tensor.inputs else None


def _appends(body: gs.Graph) -> bool:
    """Whether each round puts something behind what the rounds before have made, and does nothing else with it."""
    state, last = body.inputs[2], _producer(body.outputs[1])
    if last is None or last.op != "Concat" or int(last.attrs["axis"]) or len(last.inputs) != 2:
        return False
    readers = [n for n in body.nodes if any(t.name == state.name for t in n.inputs)]
    if last.inputs[0].name != state.name or readers != [last] or last.inputs[1].name == state.name:
        return False
    return not any(state.name in captured_names(g) for n in body.nodes for g in n.subgraphs())


def _always(node: gs.Node, body: gs.Graph) -> bool:
    """Whether no condition ends the loop."""
    import onnx_graphsurgeon as gs

    given, again = node.inputs[1], body.outputs[0]
    while _producer(again) is not None and _producer(again).op in ("Identity", "Cast"):
        again = _producer(again).inputs[0]
    if not given.name:
        given = again
    passed = again.name in (body.inputs[1].name, given.name)
    true = [t for t in ((given,) if passed else (given, again)) if not isinstance(t, gs.Constant)]
    return not true and all(bool(value_of(t)) for t in ((given,) if passed else (given, again)))


def _counts(tensor: Any, masks: Any) -> bool:
    """Whether a number of rounds is the number of masks."""
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        return bool(int(value_of(tensor).reshape(-1)[0]) == masks.shape[0])
    node = _producer(tensor)
    while node is not None and node.op in PASSED_ON:
        node = _producer(node.inputs[0])
    if node is None or node.op != "Gather" or not isinstance(node.inputs[1], gs.Constant):
        return False
    shape = _producer(node.inputs[0])
    if shape is None or shape.op != "Shape" or value_of(node.inputs[1]).reshape(-1)[0] != 0:
        return False
    return bool(shape.inputs[0].name == masks.name and not shape.attrs.get("start", 0))


# -- all masks at once ------------------------------------------------------------------------------------


def _write(paste: Paste, opset: int) -> Body:
    """``result`` [N, height, width] from ``masks``, ``boxes``, ``height`` and ``width``."""
    b = Body(opset)
    rows = _weights(b, paste, 1, "height")
    columns = _weights(b, paste, 0, "width")
    lines = b.op("MatMul", rows, b.squeeze("masks", 1))
    b.alias(b.op("MatMul", lines, b.transpose(columns, 0, 2, 1)), "result")
    return b


def _weights(b: Body, paste: Paste, column: int, size: str) -> str:
    """[N, pixels of the image, pixels of a mask] along one axis: weights of a linear interpolation."""
    start = b.gather("boxes", b.ints(column), axis=1)  # [N, 1]
    end = b.gather("boxes", b.ints(column + 2), axis=1)
    one = b.const(1, np.int64)
    length = b.cast(b.maximum(b.add(b.sub(end, start), one), one), np.float32)
    known = paste.masks.shape[3 - column]
    if isinstance(known, int):
        pixels, number = b.const(np.arange(known)), b.const(known)
    else:
        dim = b.gather(b.op("Shape", "masks"), b.const(3 - column, np.int64), axis=0)
        pixels = b.cast(b.op("Range", b.const(0, np.int64), dim, one), np.float32)
        number = b.cast(dim, np.float32)
    places = b.unsqueeze(
        b.op("Range", b.const(0, np.int64), b.squeeze(size, 0), one), 0
    )  # [1, pixels of the image]
    inside = b.logical_and(b.greater_equal(places, start), b.greater_equal(end, places))
    half = b.const(0.5)
    at = b.div(b.add(b.cast(b.sub(places, start), np.float32), half), b.div(length, number))
    at = b.minimum(b.maximum(b.sub(at, half), b.const(0.0)), b.sub(number, b.const(1.0)))
    distance = b.op("Abs", b.sub(b.unsqueeze(at, 2), pixels))
    weight = b.maximum(b.sub(b.const(1.0), distance), b.const(0.0))
    return b.where(b.unsqueeze(inside, 2), weight, b.const(0.0))


# -- whether it is the same -------------------------------------------------------------------------------


def _boxes(height: int, width: int) -> Any:
    """Boxes inside an image, across its edges, of one pixel, with ends swapped, and outside."""
    return np.asarray(
        [
            [2, 1, width - 3, height - 2], [0, 0, width - 1, height - 1], [3, 2, 3, 2], [-4, -2, 5, 3],
            [width - 4, height - 3, width + 3, height + 5], [-3, -3, width + 2, height + 1], [5, 5, 4, 4],
            [1, 3, width, height], [-7, 2, -3, 4], [4, 1, 6, 1],
        ],
        np.int64,
    )  # fmt: skip


def _difference(graph: gs.Graph, paste: Paste, body: Body) -> float | None:
    """The largest difference between a loop and what would take its place; None if one of them does not run."""
    generator = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else 6 + k for k, d in enumerate(paste.masks.shape)][2:]
    fixed = [_known(paste.height), _known(paste.width)]
    worst = 0.0
    for image in IMAGES:
        height, width = (g if k is None else k for g, k in zip(image, fixed, strict=True))
        if paste.height is paste.width:
            height = width
        boxes = _boxes(height, width)
        count = _known_count(paste, len(boxes))
        boxes = np.resize(boxes, (count, 4))
        masks = generator.uniform(0, 1, (count, 1, *shape)).astype(np.float32)
        named = {"masks": masks, "boxes": boxes, "height": np.asarray([height]), "width": np.asarray([width])}
        try:
            before = _run(*_loop_model(graph, paste, named))
            after = _run(_model(body), named)
        except EvaluationError:
            return None
        one, other = before[paste.node.outputs[0].name], after["result"]
        if one.shape != other.shape:
            return None
        worst = max(worst, float(np.max(np.abs(one - other), initial=0)))
    return worst


def _known(tensor: Any) -> int | None:
    import onnx_graphsurgeon as gs

    return int(value_of(tensor).reshape(-1)[0]) if isinstance(tensor, gs.Constant) else None


def _known_count(paste: Paste, count: int) -> int:
    dims = [t.shape[0] for t in (paste.masks, paste.boxes) if isinstance(t.shape[0], int)]
    return dims[0] if dims else count


def _loop_model(
    graph: gs.Graph, paste: Paste, named: dict[str, Any]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The loop alone, and its feeds."""
    import onnx_graphsurgeon as gs

    node = paste.node
    image = (int(named["height"][0]), int(named["width"][0]))
    feeds: dict[str, Any] = {
        paste.masks.name: named["masks"],
        paste.boxes.name: named["boxes"],
        **{t.name: np.full(t.shape, image[k], np.int64) for t, k in paste.known},
        node.inputs[0].name: np.full(node.inputs[0].shape or [], len(named["masks"]), np.int64),
        node.inputs[2].name: np.zeros((0, *image), np.float32),
    }
    constants = {t.name for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    feeds = {k: v for k, v in feeds.items() if k not in constants}
    model = extract(
        graph,
        [node],
        list(feeds),
        [node.outputs[0].name],
        shapes={k: [None] * v.ndim for k, v in feeds.items()},
    )
    return model, feeds


def _run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    return Evaluator(model, threads=1).run(feeds)


def _model(body: Body) -> onnx.ModelProto:
    import onnx

    kinds = {"masks": (1, 4), "boxes": (7, 2), "height": (7, 1), "width": (7, 1)}
    inputs = [onnx.helper.make_tensor_value_info(n, k, [None] * r) for n, (k, r) in kinds.items()]
    outputs = [onnx.helper.make_tensor_value_info("result", 1, [None] * 3)]
    graph = onnx.helper.make_graph(body.nodes, "paste", inputs, outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", body.opset)], ir_version=8
    )


def _replace(
    graph: gs.Graph, paste: Paste, body: Body, provenance: dict[str, dict[str, str]]
) -> tuple[str, ...]:
    """Let the written nodes make what the loop made."""
    editor = Editor(graph, provenance)
    node = paste.node
    tensors = {"masks": paste.masks, "boxes": paste.boxes, "height": paste.height, "width": paste.width}
    old = list(node.outputs)
    list.clear(node.outputs)
    made, _ = editor.write(
        body.nodes,
        tensors,
        old,
        ["result"],
        {},
        rule=RULE,
        prefix=f"surgery/{RULE}/{node.name}",
        origin=node.name,
    )
    editor.put_in_place({id(node): made})
    return tuple(n.name for n in made)
