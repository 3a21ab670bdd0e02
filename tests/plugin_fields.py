"""Whether a TensorRT has the plugins of a model, with the fields that their nodes give."""

from __future__ import annotations

from typing import Any

import onnx

from surgery.graph.walk import all_nodes

KINDS = {
    "int32": (onnx.AttributeProto.INT, onnx.AttributeProto.INTS),
    "float32": (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS, onnx.AttributeProto.TENSOR),
    "char": (onnx.AttributeProto.STRING,),
    "string": (onnx.AttributeProto.STRING,),
}


def field_problems(model: onnx.ModelProto, target: Any) -> list[str]:
    """What the recorded creators of that TensorRT would not take of a model's bare plugin nodes."""
    problems = []
    for node in all_nodes(model.graph.node):
        if onnx.defs.has(node.op_type, node.domain):
            continue
        entry = target.plugin(node.op_type)
        attributes = {a.name: a for a in node.attribute}
        version = attributes["plugin_version"].s.decode() if "plugin_version" in attributes else "?"
        if entry is None or version not in entry.versions:
            problems.append(f"{target.name} has no {node.op_type} version {version}")
            continue
        fields = {f.name: f.type for f in entry.attributes}
        for name, attribute in attributes.items():
            if name in ("plugin_version", "plugin_namespace"):
                continue
            kind = fields.get(name, "missing").partition("[")[0].split()[0]
            if attribute.type not in KINDS.get(
                kind, KINDS["float32"] + KINDS["int32"] if kind == "weights" else ()
            ):
                problems.append(
                    f"{node.op_type}: {name} is field type {fields.get(name)}, not {attribute.type}"
                )
    return problems
