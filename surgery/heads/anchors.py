"""What becomes of a head's anchors: constants as the graph has them, or GridAnchor plugin nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.graph.body import Body
from surgery.graph.convert import export_graph, extract, is_external, value_of
from surgery.graph.editor import Editor
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.tidy import replace_uses
from surgery.graph.view import View
from surgery.heads.decode import Decoding, read_decoding
from surgery.heads.gridanchor import GridAnchors, recover
from surgery.heads.head import DetectionHead
from surgery.pipeline import State
from surgery.report import Edit

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

PREFIX = "surgery/anchors"
VECTOR_TOLERANCE = 1e-5
BOX_TOLERANCE = 1e-5


def place_anchors(
    state: State, head: DetectionHead, feeds: dict[str, Any], *, emit: Literal["constant", "plugin"]
) -> list[str]:
    """Record what the anchors are, and put plugin nodes in their place where that is asked for and possible.

    Returns:
        What was done, for the stage's summary. Where plugin nodes cannot be had, the anchors stay constants
        and a warning says why.
    """
    decoding = read_decoding(state.graph, head, feeds)
    if isinstance(decoding, str):
        if emit == "plugin":
            state.warn(f"anchors stay as they are in the graph: {decoding}")
        return []
    grid = recover(decoding.anchors)
    details: dict[str, Any] = {
        "encodings": decoding.encodings,
        "num_anchors": len(decoding.anchors),
        "box_order": "ymin, xmin, ymax, xmax",
        "box_coder": "centre-size",
        "variances": decoding.variances,
        "max_decode_error": decoding.max_error,
    }
    if isinstance(grid, str):
        details["grid"] = f"none: {grid}"
    else:
        details["grid"] = {"plugin": grid.plugin, **grid.attributes(decoding.variances)}
        details["max_anchor_error"] = grid.max_error
    made: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    assumptions: list[str] = []
    verified = "passed"
    kind, error, text = "constant", decoding.max_error, f"{len(decoding.anchors)} anchors as constants"
    if emit == "plugin":
        reason = _why_not(state, grid)
        if reason is None and isinstance(grid, GridAnchors):
            before, made, error = _emit(state, head, decoding, grid, feeds)
            state.per_sample_plugins = True
            kind, text = "plugin", f"{len(decoding.anchors)} anchors from {grid.plugin}"
            warning = (
                f"{grid.plugin} has the interface IPluginV2Ext, which declares shapes per sample; whether it "
                "fits an explicit-batch network has not been executed here"
            )
            assumptions.append(warning)
            state.warn(warning)
        else:
            state.warn(f"anchors stay constants: {reason}")
    state.report.edits.append(
        Edit("anchors", kind, before, made, verified, error, tuple(assumptions), details)
    )
    return [text]


def _why_not(state: State, grid: GridAnchors | str) -> str | None:
    if isinstance(grid, str):
        return f"no GridAnchor plugin makes them: {grid}"
    entry = state.target.plugin(grid.plugin)
    if entry is None or not entry.available:
        return f"{state.target.name} has no {grid.plugin}"
    if grid.plugin not in state.registry.names():
        return f"there is no definition of {grid.plugin}"
    return None


def _emit(
    state: State, head: DetectionHead, decoding: Decoding, grid: GridAnchors, feeds: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...], float]:
    """Replace every anchor constant of the decoding by what it is of the plugin's boxes."""
    from surgery.errors import ConversionError
    from surgery.plugins.attach import attach_bodies

    graph = state.graph
    reference = _decoder(graph, head)
    constants = _anchor_constants(graph, decoding)
    if not constants:
        raise ConversionError("no constant of the decoding holds anchors", code="anchors-not-found")
    model = _plugin_model(state, decoding, grid, constants)
    editor = Editor(graph, state.provenance)
    made = editor.insert(model, rule="anchors", prefix=PREFIX)
    view = View(graph)
    tensors = {t.name: t for n in graph.nodes for t in n.outputs}
    for name in constants:
        replace_uses(view, name, tensors[_new_name(name)])
    editor.tidy()
    runnable = attach_bodies(export_graph(graph, state.header), state.registry)
    error = _compare(reference, runnable, head, feeds)
    if error > BOX_TOLERANCE:
        raise ConversionError(
            f"boxes decoded with {grid.plugin} differ from the graph's by {error:g}",
            code="unproven",
            where="substitute.anchors",
            fix="use `anchors: {emit: constant}`",
        )
    return tuple(constants), tuple(made), error


def _new_name(constant_name: str) -> str:
    return f"{constant_name}/from_plugin"


def _anchor_constants(graph: gs.Graph, decoding: Decoding) -> dict[str, tuple[str, float, tuple[int, ...]]]:
    """Constants that hold anchors: name to (which quantity, factor, shape)."""
    import onnx_graphsurgeon as gs

    view = View(graph)
    boxes = np.asarray(decoding.anchors, np.float64)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    vectors = {
        "cy": (boxes[:, 0] + boxes[:, 2]) / 2,
        "cx": (boxes[:, 1] + boxes[:, 3]) / 2,
        "h": height,
        "w": width,
        "ymin": boxes[:, 0],
        "xmin": boxes[:, 1],
        "ymax": boxes[:, 2],
        "xmax": boxes[:, 3],
    }
    found: dict[str, tuple[str, float, tuple[int, ...]]] = {}
    keys = set(decoding.keys) | view.ancestors(decoding.keys)
    for key in sorted(keys):
        for tensor in view.nodes[key].inputs:
            if not isinstance(tensor, gs.Constant) or is_external(tensor) or tensor.name in found:
                continue
            value = value_of(tensor)
            if value.dtype != np.float32 or value.size not in (len(boxes), boxes.size):
                continue
            flat = value.astype(np.float64)
            if value.size == boxes.size:
                if value.shape[-1] == 4 and np.allclose(flat.reshape(-1, 4), boxes, atol=VECTOR_TOLERANCE):
                    found[tensor.name] = ("boxes", 1.0, value.shape)
                continue
            for quantity, vector in vectors.items():
                factor = float(np.dot(flat.ravel(), vector) / np.dot(vector, vector))
                if factor and np.allclose(flat.ravel(), factor * vector, rtol=1e-4, atol=VECTOR_TOLERANCE):
                    found[tensor.name] = (quantity, factor, value.shape)
                    break
    return found


def _plugin_model(
    state: State,
    decoding: Decoding,
    grid: GridAnchors,
    constants: dict[str, tuple[str, float, tuple[int, ...]]],
) -> onnx.ModelProto:
    import onnx

    from surgery.plugins.definition import PLUGIN_DOMAIN

    b = Body(int(state.graph.opset))
    definition = state.registry.get(grid.plugin)
    outputs = [b.fresh("priors") for _ in grid.layers]
    b.nodes.append(definition.make_node(grid.plugin, [], outputs, grid.attributes(decoding.variances)))
    flat = b.concat([b.reshape(o, 2, -1) for o in outputs], 1)  # row 0: boxes, row 1: variances
    corners = b.reshape(b.slice(flat, 0, 0, 1), -1, 4)
    xmin, ymin, xmax, ymax = (b.reshape(part, -1) for part in b.split(corners, 1, 4))
    half = b.scalar(0.5)
    values = {
        "ymin": ymin,
        "xmin": xmin,
        "ymax": ymax,
        "xmax": xmax,
        "h": b.sub(ymax, ymin),
        "w": b.sub(xmax, xmin),
        "cy": b.mul(b.add(ymin, ymax), half),
        "cx": b.mul(b.add(xmin, xmax), half),
    }
    infos = []
    for name, (quantity, factor, shape) in constants.items():
        if quantity == "boxes":
            value = b.concat([b.unsqueeze(values[k], 1) for k in ("ymin", "xmin", "ymax", "xmax")], 1)
        else:
            value = values[quantity]
            if factor != 1.0:
                value = b.mul(value, b.scalar(factor))
        value = b.reshape(value, *shape)
        out = _new_name(name)
        b.nodes.append(onnx.helper.make_node("Identity", [value], [out], name=b.fresh("anchor")))
        infos.append(onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, list(shape)))
    imports = [onnx.helper.make_opsetid("", b.opset), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    graph = onnx.helper.make_graph(b.nodes, "anchors", [], infos)
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def _decoder(graph: gs.Graph, head: DetectionHead) -> onnx.ModelProto:
    view = View(graph)
    nodes = [
        view.nodes[k]
        for k in sorted(view.ancestors([view.producer[head.boxes]]), key=lambda k: view.order[k])
    ]
    return extract(graph, nodes, [t.name for t in graph.inputs], [head.boxes], shapes={head.boxes: None})


def _compare(
    reference: onnx.ModelProto,
    result: onnx.ModelProto,
    head: DetectionHead,
    feeds: dict[str, NDArray[Any]],
) -> float:
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(result)
    if head.boxes not in {o.name for o in shown.graph.output}:
        shown.graph.output.append(
            onnx.helper.make_tensor_value_info(head.boxes, onnx.TensorProto.FLOAT, None)
        )
    try:
        want = Evaluator(reference).run(feeds)[head.boxes]
        got = Evaluator(shown).run(feeds, [head.boxes])[head.boxes]
    except EvaluationError:
        return float("inf")
    return float(np.max(np.abs(want - got), initial=0.0)) if want.shape == got.shape else float("inf")
