"""Operators that ONNX itself defines by other operators: the schema's own function body in their place."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.graph.body import Body
from surgery.graph.functions import bind_references
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSUITED = frozenset({"Range", "SequenceMap", "Bernoulli"})
"""Their bodies are loops over elements, work on sequences, or draw other random numbers."""


KINDS = ("has_function", "has_context_dependent_function")
"""Properties of a schema that say whether it has a body; onnx's stubs do not know them."""


@lru_cache(maxsize=1)
def defined_by_functions() -> tuple[str, ...]:
    """Operators of ONNX's own domain whose newest schema has a function body."""
    return tuple(
        sorted(
            s.name
            for s in onnx.defs.get_all_schemas()
            if not s.domain and any(getattr(s, kind) for kind in KINDS) and s.name not in UNSUITED
        )
    )


@lowering(
    "function-body",
    *defined_by_functions(),
    why="The target has no such operator, but ONNX defines it as a function of operators that it may have; the "
    "body is the operator schema's own.",
    samples=[
        "(float[2, 3] x) => (float[2, 3] y) { y = Celu <alpha = 2.0> (x) }",
        "(float[n, 3] x) => (float[n, 3] y) { y = Mish (x) }",
        Sample(
            '(float[3, 5] x, int64[3] t) => (float l) { l = NegativeLogLikelihoodLoss <reduction = "mean"> (x, t) }',
            feeds={"t": (0, 5)},
        ),
        Sample(
            "(float[2, 4, 3] x, int64[2, 3] t, float[4] w) => (float l, float[2, 4, 3] p) "
            '{ l, p = SoftmaxCrossEntropyLoss <reduction = "sum", ignore_index = 1> (x, t, w) }',
            feeds={"t": (0, 4)},
        ),
        "(float16[2, 8] x) => (float16[2, 8] y) { y = LeakyRelu <alpha = 0.2> (x) }",
        "(float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) { y = MeanVarianceNormalization (x) }",
        *samples_in("double", "(T[n, 3] x) => (T[n, 3] y) { y = Mish (x) }"),
        *samples_in(
            "int32",
            "(float[3, 5] x, T[3] t) => (float l) { l = NegativeLogLikelihoodLoss <reduction = "
            '"mean"> (x, t) }',
            feeds={"t": (0, 5)},
        ),
        *samples_in(
            "bfloat16",
            "(T[2, 4, 3] x, int64[2, 3] t, T[4] w) => (T l, T[2, 4, 3] p) { l, p = "
            'SoftmaxCrossEntropyLoss <reduction = "sum", ignore_index = 1> (x, t, w) }',
            feeds={"t": (0, 4)},
        ),
    ],
    near_misses=["(float[2, 3] x) => (float[2, 3] y) { y = Cos (x) }"],
    rank=100,
)
def function_body(site: Site, b: Body) -> list[str | None]:
    """The schema's body with attributes bound and names made unique."""
    function = _function(site)
    names = {n: site.optional(i) for i, n in enumerate(function.input)}
    attributes = {a.name: a for a in function.attribute_proto}
    for name in function.attribute:
        value = site.attr(name)
        if value is not None:
            attributes[name] = onnx.helper.make_attribute(name, value)
    for name, value in site.attributes.items():
        attributes[name] = onnx.helper.make_attribute(name, _bindable(value))
    for node in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        bind_references(copy, attributes)
        for place in (copy.output, copy.input):
            for i, old in enumerate(place):
                if old and place is copy.output:
                    names[old] = b.fresh(f"f_{copy.op_type}")
                place[i] = names.get(old, old) if old else ""
        _rename_bodies(copy, names)
        copy.name = f"n_{copy.output[0]}"
        b.nodes.append(copy)
    made: list[str | None] = []
    for i, _ in enumerate(site.outputs):
        made.append(names[function.output[i]] if site.used(i) else None)
    return made


def _bindable(value: object) -> object:
    return onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value


def _function(site: Site) -> onnx.FunctionProto:
    """The function of the schema in force, in the newest version that is not newer than the model."""
    try:
        schema: Any = onnx.defs.get_schema(site.op, site.opset, site.domain)
    except onnx.defs.SchemaError as error:
        raise NoMatch(f"opset {site.opset} has no {site.op}") from error
    function = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, site.opset)
        bound: dict[str, Any] = {k: _bindable(v) for k, v in site.attributes.items()}
        node = onnx.helper.make_node(
            site.op,
            [o.name if o is not None else "" for o in site.inputs],
            [o.name if o is not None and o.used else "" for o in site.outputs],
            **bound,
        )
        types = []
        for operand in site.inputs:
            kind = onnx.TypeProto()
            if operand is not None:
                if operand.dtype is None:
                    raise NoMatch(f"the dtype of {operand.name} is not known")
                kind.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
                if operand.shape is not None:
                    for dim in operand.shape:
                        entry = kind.tensor_type.shape.dim.add()
                        if isinstance(dim, int):
                            entry.dim_value = dim
            types.append(kind.SerializeToString())
        text = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
    elif schema.has_function:
        text = schema.get_function_with_opset_version(_newest(schema.function_opset_versions, site.opset))
    else:
        raise NoMatch(f"{site.op} has no function body in opset {site.opset}")
    if not text:
        raise NoMatch(f"{site.op} has no function body for these types")
    function.ParseFromString(text)
    return function


def _newest(versions: list[int], opset: int) -> int:
    fitting = [v for v in versions if v <= opset]
    if not fitting:
        raise NoMatch(f"the function body is for opset {min(versions, default=0)} and later")
    return max(fitting)


def _rename_bodies(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                for i, old in enumerate(inner.input):
                    inner.input[i] = names.get(old, old)
                _rename_bodies(inner, names)
            for value in attribute.g.output:
                value.name = names.get(value.name, value.name)
