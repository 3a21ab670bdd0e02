"""Plugin nodes in the place of what was recognised as them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.errors import ConfigError, ConversionError
from surgery.graph.body import Body
from surgery.graph.cut import Cut, make_cut
from surgery.graph.editor import Editor
from surgery.graph.view import View, body_nodes
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.recognise import Match

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Placed:
    """What was done about a match.

    Attributes:
        match: The match.
        removed: Names of the nodes that went.
        made: Names of the nodes that came; none if it was left alone.
        kept: Names of nodes of the match that stay because others read what they make.
        refused: Why it was left alone, or nothing.
    """

    match: Match
    removed: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    refused: str = ""


def put_back(
    graph: gs.Graph,
    matches: Sequence[Match],
    provenance: dict[str, dict[str, str]],
    *,
    root: gs.Graph | None = None,
) -> list[Placed]:
    """Replace matches by plugin nodes, in place.

    Args:
        graph: The graph that they were found in.
        matches: What was found; no two overlap.
        provenance: First output name of a new node to metadata; entries are added.
        root: The model's graph, if `graph` is a body in it: names are unique in all of it.
    """
    editor = Editor(graph, provenance)
    root = graph if root is None else root
    return [_place(editor, match, number, root) for number, match in enumerate(matches)]


def _place(editor: Editor, match: Match, number: int, root: gs.Graph) -> Placed:
    view = View(editor.graph)
    inside = {view.producer[v] for v in match.values if v in view.producer}
    kept = _needed_outside(view, inside, set(match.outputs), match.taps)
    names = tuple(view.nodes[k].name for k in sorted(kept))
    if not inside:
        return _place_constants(editor, match, view, root)
    try:
        cut = make_cut(view, f"{match.plugin.name}_{number}", inside - kept, "structure")
        if not cut.outputs:
            return Placed(
                match, kept=names, refused="others read the values inside, so that every node would stay"
            )
        replacement = _node_model(editor.graph, match, cut)
        made = editor.replace(
            cut, replacement, rule="recognised-plugin", prefix=f"surgery/{_free_name(root, match)}"
        )
    except (ConfigError, ConversionError) as error:
        return Placed(match, kept=names, refused=str(error))
    return Placed(match, tuple(n.name for n in cut.nodes(view)), tuple(made), names)


def _place_constants(editor: Editor, match: Match, view: View, root: gs.Graph) -> Placed:
    """Let a plugin node make what were constants."""
    used = {*view.consumers, *view.outputs}
    outputs = tuple(o for o in match.outputs if o in used)
    if not outputs:
        return Placed(match, refused="nothing reads these constants")
    cut = Cut(match.plugin.name, (), (), outputs, "structure")
    try:
        made = editor.replace(
            cut,
            _node_model(editor.graph, match, cut),
            rule="recognised-plugin",
            prefix=f"surgery/{_free_name(root, match)}",
        )
    except (ConfigError, ConversionError) as error:
        return Placed(match, refused=str(error))
    return Placed(match, outputs, tuple(made))


def _needed_outside(view: View, inside: set[int], outputs: set[str], taps: Sequence[str] = ()) -> set[int]:
    """Nodes inside whose values others or the plugin's part read, and what these are made from."""
    start = {view.producer[t] for t in taps if view.producer.get(t) in inside}
    for key in inside:
        for tensor in view.nodes[key].outputs:
            users = view.consumers.get(tensor.name, ())
            if tensor.name not in outputs and (
                tensor.name in view.outputs or any(u not in inside for u in users)
            ):
                start.add(key)
    return inside & (start | view.ancestors(start))


def _node_model(graph: gs.Graph, match: Match, cut: Cut) -> onnx.ModelProto:
    """A model of the plugin node, and of what has to stand around it.

    Outputs that the graph has no use for get names of their own.
    """
    tensors: dict[str, Any] = graph.tensors()
    if match.replacement:
        return _form_model(graph, match, cut, tensors)
    outputs = [n if n in cut.outputs else f"unused_{i}" for i, n in enumerate(match.outputs)]
    body = Body(int(graph.opset))
    zeros = {name: tensor.write(body) for name, tensor in match.zeros.items()}
    inputs = [zeros.get(n, n) for n in match.inputs]
    node = match.plugin.make_node(match.plugin.name, inputs, outputs, match.attributes)
    given = [_declared(tensors, n) for n in dict.fromkeys(n for n in match.inputs if n and n not in zeros)]
    made = [_declared(tensors, n) for n in cut.outputs]
    graph_proto = onnx.helper.make_graph([*body.nodes, node], "recognised", given, made)
    opsets = [onnx.helper.make_opsetid("", int(graph.opset)), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return onnx.helper.make_model(graph_proto, opset_imports=opsets, ir_version=8)


def _form_model(graph: gs.Graph, match: Match, cut: Cut, tensors: dict[str, Any]) -> onnx.ModelProto:
    made = {o for n in match.replacement for o in n.output}
    read = dict.fromkeys(r for n in match.replacement for r in n.input if r and r not in made)
    graph_proto = onnx.helper.make_graph(
        list(match.replacement),
        "recognised",
        [_declared(tensors, n) for n in read],
        [_declared(tensors, n) for n in cut.outputs],
    )
    opsets = [onnx.helper.make_opsetid("", int(graph.opset)), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return onnx.helper.make_model(graph_proto, opset_imports=opsets, ir_version=8)


def _declared(tensors: dict[str, Any], name: str) -> onnx.ValueInfoProto:
    tensor = tensors.get(name)
    if tensor is None:
        raise ConversionError(f"{name!r} is not a value of the graph itself", code="illegal-edit")
    if tensor.dtype is None:
        return onnx.ValueInfoProto(name=name)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    shape = None if tensor.shape is None else list(tensor.shape)
    return onnx.helper.make_tensor_value_info(name, element, shape)


def _free_name(graph: gs.Graph, match: Match) -> str:
    names = {n.name for node in graph.nodes for n in (node, *body_nodes(node))}
    number = 1
    while any(n.startswith(f"surgery/{match.plugin.name}_{number}/") for n in names):
        number += 1
    return f"{match.plugin.name}_{number}"
