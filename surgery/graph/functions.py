"""Model-local functions put in the place of the nodes that call them.

`onnx.inliner` does it, but (measured with onnx 1.23) ignores the defaults of attributes, says nothing about required
ones that are missing, and leaves calls in place where it cannot bring a function to the model's operator set; and
overloads are easily mixed up. So calls are completed and told apart first, and what is left is reported after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

    Key = tuple[str, str, str]
    Functions = dict[Key, onnx.FunctionProto]

PLUGIN_DOMAIN = "trt.plugins"
"""Functions of this domain describe plugins, and stay."""


NUMBERS = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}
"""Attributes of Constant that give numbers without a tensor."""


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without model-local functions, except those that describe plugins; the argument is not changed.

    Raises:
        ModelError: a call lacks a required attribute or has too many operands, functions call each other in a
            circle, or a function cannot be brought to the model's operator set.
    """
    import onnx
    import onnx.inliner

    result = onnx.ModelProto()
    result.CopyFrom(model)
    table = {_key(f.domain, f.name, f.overload): f for f in result.functions if f.domain != PLUGIN_DOMAIN}
    if not table:
        return result
    _check_circles(table)
    for nodes in (result.graph.node, *(f.node for f in table.values())):
        for node in all_nodes(nodes):
            function = _called(node, table)
            if function is not None:
                _complete(node, function)
            _plain_constant(node)
    _tell_overloads_apart(result, table)
    _import_domains(result, table.values())
    kept = [f for f in result.functions if f.domain == PLUGIN_DOMAIN]
    del result.functions[:]
    result.functions.extend(table.values())
    try:
        inlined = onnx.inliner.inline_local_functions(result, convert_version=True)
    except Exception as error:  # onnx raises many undocumented types
        raise ModelError(
            "the model's functions cannot be inlined", code="function-inlining", cause=str(error)
        ) from error
    for node in all_nodes(inlined.graph.node):
        if _called(node, table) is not None:
            raise _not_inlined(node, table, result)
    del inlined.functions[:]
    inlined.functions.extend(kept)
    return inlined


def _not_inlined(node: onnx.NodeProto, table: Functions, model: onnx.ModelProto) -> ModelError:
    function = _called(node, table)
    own = next((o.version for o in function.opset_import if not o.domain), "?") if function else "?"
    wanted = next((o.version for o in model.opset_import if not o.domain), "?")
    return ModelError(
        f"function {node.domain}.{node.op_type} cannot be brought from opset {own} to the model's opset {wanted}",
        code="function-inlining",
        node=node.name,
        fix="export the model with one opset for all of it",
    )


def _key(domain: str, name: str, overload: str) -> Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _called(node: onnx.NodeProto, table: Functions) -> onnx.FunctionProto | None:
    """The function that a node calls."""
    return table.get(_key(node.domain, node.op_type, node.overload))


def _check_circles(table: Functions) -> None:
    done: set[Key] = set()

    def visit(key: Key, path: tuple[Key, ...]) -> None:
        if key in path:
            raise ModelError(f"function {key[0]}.{key[1]} calls itself", code="function-inlining")
        if key in done:
            return
        for node in all_nodes(table[key].node):
            inner = _key(node.domain, node.op_type, node.overload)
            if inner in table:
                visit(inner, (*path, key))
        done.add(key)

    for key in table:
        visit(key, ())


def _complete(node: onnx.NodeProto, function: onnx.FunctionProto) -> None:
    """Give a call the attributes that it leaves to their defaults; check the rest of it."""
    title = f"{function.domain}.{function.name}"
    given = {a.name for a in node.attribute}
    for attribute in function.attribute_proto:
        if attribute.name not in given:
            node.attribute.add().CopyFrom(attribute)
    missing = [name for name in function.attribute if name not in given]
    if missing:
        raise ModelError(
            f"a call of function {title} lacks the attribute {missing[0]!r}, which has no default",
            code="function-attribute",
            node=node.name,
        )
    for kind, has, takes in (
        ("inputs", node.input, function.input),
        ("outputs", node.output, function.output),
    ):
        if len(has) > len(takes):
            raise ModelError(
                f"a call of function {title} has {len(has)} {kind}, the function has {len(takes)}",
                code="function-operands",
                node=node.name,
            )


def bind_references(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> None:
    """Put a call's attributes in the place of references to them, in place, in bodies too.

    Args:
        node: A node of a function's body, or of a copy of it.
        given: Attributes of the call by name; what refers to one that is not given is left out.
    """
    for i in reversed(range(len(node.attribute))):
        attribute = node.attribute[i]
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                bind_references(inner, given)
        if not attribute.ref_attr_name:
            continue
        value, name = given.get(attribute.ref_attr_name), attribute.name
        del node.attribute[i]
        if value is not None:
            bound = node.attribute.add()
            bound.CopyFrom(value)
            bound.name = name


def _plain_constant(node: onnx.NodeProto) -> None:
    """A Constant that gives a tensor; onnx's version converter knows no other form."""
    import numpy as np
    import onnx

    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return
    attribute = node.attribute[0]
    dtype = NUMBERS.get(attribute.name)
    if dtype is None or attribute.ref_attr_name:
        return
    array = np.asarray(onnx.helper.get_attribute_value(attribute), dtype)
    attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(array)))


def _tell_overloads_apart(model: onnx.ModelProto, table: Functions) -> None:
    """Functions of one name get names of their own, and calls follow."""
    taken = {(domain, name) for domain, name, overload in table if not overload}
    names: dict[Key, str] = {}
    for key, function in table.items():
        domain, name, overload = key
        if not overload:
            continue
        new = f"{name}__{overload}"
        while (domain, new) in taken:
            new += "_"
        taken.add((domain, new))
        names[key] = function.name = new
        function.overload = ""
    if not names:
        return
    for nodes in (model.graph.node, *(f.node for f in table.values())):
        for node in all_nodes(nodes):
            key = _key(node.domain, node.op_type, node.overload)
            if key in names:
                node.op_type, node.overload = names[key], ""
    for key in list(names):
        table[_key(key[0], names[key], "")] = table.pop(key)


def _import_domains(model: onnx.ModelProto, functions: Iterable[onnx.FunctionProto]) -> None:
    """Let the model import what its functions do: their nodes become the model's."""
    known = {"" if o.domain == "ai.onnx" else o.domain for o in model.opset_import}
    missing: dict[str, int] = {}
    for function in functions:
        for entry in function.opset_import:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if domain not in known:
                missing[domain] = max(missing.get(domain, 1), entry.version)
    for domain, version in missing.items():
        model.opset_import.add(domain=domain, version=version)
