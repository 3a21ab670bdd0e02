"""Labels of classes as classic machine learning gives them: strings, and maps from class to score.

TensorRT has neither, and both only name what is a number: the place of a class among the classes, and the column of a
score. Where a model does no more with them than hand them out, they are read as these numbers, and the user is told
which number is which class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

ML = "ai.onnx.ml"

CLASSIFIERS: Mapping[str, str] = {
    "LinearClassifier": "classlabels_ints",
    "SVMClassifier": "classlabels_ints",
    "TreeEnsembleClassifier": "classlabels_int64s",
}
"""Operators whose first output is a label, to the attribute that holds labels as numbers."""

MOVERS = frozenset(
    {"ArrayFeatureExtractor", "Gather", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}
)
"""Operators that hand on entries of their first operand, whatever they are."""

SHOWN = 20
"""Classes that are told one by one."""


def as_numbers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Give out scores of a ZipMap as a tensor and labels that are strings as int64, in place.

    Args:
        model: Changed where an output is such a map or such a string. Strings that come from an input, or that
            an operator looks into, stay.

    Returns:
        What was done, in words.
    """
    return (*_scores_of_maps(model.graph), *_numbered_labels(model))


def _scores_of_maps(graph: onnx.GraphProto) -> list[str]:
    """Take out every ZipMap that is an output and nothing else."""
    told = []
    outputs = {v.name: v for v in graph.output}
    for node in graph.node:
        if (node.domain, node.op_type) != (ML, "ZipMap") or node.output[0] not in outputs:
            continue
        if any(node.output[0] in other.input for other in all_nodes(graph.node)):
            continue
        classes = _strings_or_ints(node, "classlabels_strings", "classlabels_int64s")
        value = outputs[node.output[0]]
        value.type.Clear()
        value.type.tensor_type.elem_type = 1
        value.type.tensor_type.shape.dim.add()
        value.type.tensor_type.shape.dim.add(dim_value=len(classes))
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        told.append(
            f"the output {value.name!r} is the tensor of scores instead of a list of maps (ZipMap); its columns are "
            f"the classes {_shown(classes)}"
        )
    return told


def _numbered_labels(model: onnx.ModelProto) -> list[str]:
    """Number the strings that only go to outputs."""
    import numpy as np
    import onnx

    graph = model.graph
    wanted = [v for v in graph.output if v.type.tensor_type.elem_type == onnx.TensorProto.STRING]
    if not wanted:
        return []
    texts = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.STRING}
    sources, moved = _string_flow(graph, set(texts))
    if sources is None or not {v.name for v in wanted} <= moved:
        return []
    classes: dict[str, int] = {}
    for labels in [*([s.decode() for s in t.string_data] for t in texts.values()), *map(_labels, sources)]:
        for label in labels:
            classes.setdefault(label, len(classes))
    for name, tensor in texts.items():
        codes = np.array([classes[s.decode()] for s in tensor.string_data], np.int64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(codes.reshape(list(tensor.dims)), name))
    for node in sources:
        _number(node, classes)
    for value in (*graph.output, *graph.value_info):
        if value.name in moved:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    names = ", ".join(repr(v.name) for v in wanted)
    told = _shown([f"{number} for {label!r}" for label, number in classes.items()])
    return [f"the output {names} is a number instead of a string: {told}"]


def _string_flow(graph: onnx.GraphProto, constants: set[str]) -> tuple[list[onnx.NodeProto] | None, set[str]]:
    """Nodes that make labels and the string tensors they and constants lead to; None if one is looked into."""
    sources: list[onnx.NodeProto] = []
    strings = set(constants)
    for node in graph.node:
        if _labels(node):
            sources.append(node)
            strings.add(node.output[0])
        elif any(name in strings for name in node.input):
            if node.op_type not in MOVERS or node.input[0] not in strings:
                return None, strings
            strings.add(node.output[0])
        elif any(name in strings for inner in all_nodes([node]) for name in inner.input):
            return None, strings
    return sources, strings


def _labels(node: onnx.NodeProto) -> list[str]:
    """Strings that the first output of a node is made of."""
    if node.domain != ML:
        return []
    if node.op_type in CLASSIFIERS:
        return [str(s) for s in _strings_or_ints(node, "classlabels_strings")]
    if node.op_type == "LabelEncoder":
        values = [str(s) for s in _strings_or_ints(node, "values_strings")]
        default = [a.s.decode() for a in node.attribute if a.name == "default_string"] or ["_Unused"]
        return [*values, *default] if values else []
    return []


def _number(node: onnx.NodeProto, classes: Mapping[str, int]) -> None:
    """Write the labels of a node as numbers."""
    import onnx

    kept = []
    for attribute in node.attribute:
        name = attribute.name
        if name == "classlabels_strings":
            name = CLASSIFIERS[node.op_type]
        elif name == "values_strings":
            name = "values_int64s"
        elif name in ("default_string", "classlabels_ints", "classlabels_int64s"):
            continue
        else:
            kept.append(onnx.AttributeProto.FromString(attribute.SerializeToString()))
            continue
        kept.append(onnx.helper.make_attribute(name, [classes[s.decode()] for s in attribute.strings]))
    if node.op_type == "LabelEncoder":
        kept.append(onnx.helper.make_attribute("default_int64", classes[_labels(node)[-1]]))
    del node.attribute[:]
    node.attribute.extend(kept)


def _strings_or_ints(node: onnx.NodeProto, *names: str) -> list[str | int]:
    for attribute in node.attribute:
        if attribute.name in names and (attribute.strings or attribute.ints):
            return [s.decode() for s in attribute.strings] or list(attribute.ints)
    return []


def _shown(classes: Sequence[str | int]) -> str:
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return ", ".join(map(str, classes[:SHOWN])) + more
