"""A model in which nothing had to be changed: the target's parser gets it as it came.

Folding and export write constants, names of nodes and the order of initializers anew even where no operator goes,
and TensorRT makes another engine of the same network then: same layers, other names, sometimes other kernels. What
needs no operation is best handed over as it is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from surgery.graph.editor import constant_proto

if TYPE_CHECKING:
    import onnx

    from surgery.pipeline import State


def as_given(state: State, made: onnx.ModelProto) -> onnx.ModelProto | None:
    """The original, if what was made of it has the same operators on the same values; else None.

    Args:
        state: The run.
        made: The model for the target's parser.
    """
    given = state.source.proto
    if state.report.edits or state.source.external or state.source.mended or given.functions:
        return None
    if _kinds(given.graph) != _kinds(made.graph) or not _same_outside(given, made):
        return None
    return given if _steps(given.graph) == _steps(made.graph) is not None else None


def _kinds(graph: onnx.GraphProto) -> list[str]:
    """The operators in their order; a look that costs nothing."""
    return [n.op_type for n in graph.node if n.op_type not in ("Constant", "Identity")]


def _same_outside(given: onnx.ModelProto, made: onnx.ModelProto) -> bool:
    """Whether both have the same inputs, outputs and operator sets."""
    versions = [
        {o.domain.replace("ai.onnx", "", 1): o.version for o in m.opset_import} for m in (given, made)
    ]
    own = {t.name for t in given.graph.initializer}
    inputs = [i for i in given.graph.input if i.name not in own]
    # Export writes an older form where the file's is newer than parsers know.
    if versions[0].get("") != versions[1].get("") or given.ir_version != made.ir_version:
        return False
    pairs = [(inputs, made.graph.input), (given.graph.output, made.graph.output)]
    return all(
        [(v.name, v.type.SerializeToString(deterministic=True)) for v in a]
        == [(v.name, v.type.SerializeToString(deterministic=True)) for v in b]
        for a, b in pairs
    )


def _steps(graph: onnx.GraphProto) -> list[tuple[object, ...]] | None:
    """The operators in their order, however constants are written; None if there are bodies or sparse constants."""
    if graph.sparse_initializer:
        return None
    # Constants are what they hold: equal ones may have been made one.
    alias: dict[str, object] = {t.name: _content(t) for t in graph.initializer}
    found: list[tuple[object, ...]] = []
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx"):
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        elif node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensor = constant_proto(node)
            if tensor is None:
                return None
            alias[node.output[0]] = _content(tensor)
        else:
            if any(a.HasField("g") or a.graphs for a in node.attribute):
                return None
            attributes = sorted((a.name, a.SerializeToString(deterministic=True)) for a in node.attribute)
            read = tuple(alias.get(n, n) for n in node.input)
            found.append((node.op_type, node.domain, tuple(attributes), read, tuple(node.output)))
    return found


def _content(tensor: onnx.TensorProto) -> tuple[object, ...]:
    """What tells a constant from others: dtype, shape and a hash of its values."""
    import onnx.numpy_helper

    values = onnx.numpy_helper.to_array(tensor)
    held = values.tolist() if values.dtype == object else values.tobytes()
    digest = hashlib.sha256(held if isinstance(held, bytes) else repr(held).encode()).digest()
    return tensor.data_type, tuple(tensor.dims), digest
