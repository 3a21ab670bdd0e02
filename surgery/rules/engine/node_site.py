"""A node as rules see it, and the class of nodes that it is of: what holds for one holds for all of its class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.convert import is_external, value_of
from surgery.graph.values import tensor_dtype
from surgery.rules.engine.site import Operand, Site

if TYPE_CHECKING:
    import onnx

SMALL = 4096
"""Bytes up to which a constant's value is part of a node's class; a larger one is a class of its own."""

WEIGHTS = 16
"""Real numbers above which the values of a constant cannot decide whether the target takes a node."""

HOST = frozenset({"Shape", "Size"})
"""Operators whose results TensorRT has on the host."""


def domain_of(node: Any) -> str:
    """Domain of a node; that of ONNX is empty."""
    domain = node.domain or ""
    return "" if domain == "ai.onnx" else str(domain)


def on_host(node: Any, host: set[str]) -> bool:
    """Whether a node computes from shapes, constants and tensors of the host alone."""
    if node.op in HOST:
        return True
    if not host or node.op == "Constant":
        return False
    found = False
    for tensor in node.inputs:
        if tensor.name in host:
            found = True
        elif tensor.name and not isinstance(tensor, gs.Constant):
            return False
    return found


def note_host(nodes: Iterable[Any], host: set[str]) -> None:
    """Add what these nodes compute from shapes alone, in their order, to the tensors of the host."""
    for node in nodes:
        if on_host(node, host):
            host.update(t.name for t in node.outputs)


def class_key(node: Any, opset: int, outputs: set[str], host: set[str]) -> Any:
    """What decides whether the target takes a node, as its kind and some real numbers, and the values of weights."""
    parts: list[Any] = [node.op, node.domain or "", opset]
    reals: list[Any] = []
    weights: list[Any] = []
    if node.attrs:
        parts.append(tuple(sorted([(k, _frozen(_plain(v))) for k, v in node.attrs.items()])))
    seen: dict[int, int] = {}
    for i, tensor in enumerate(node.inputs):
        if not tensor.name:
            parts.append(None)
            continue
        parts.append(seen.setdefault(id(tensor), i))
        parts.append(tensor_dtype(tensor))
        parts.append(_shape(tensor))
        if not isinstance(tensor, gs.Constant):
            parts.append(tensor.name in host)
        elif is_external(tensor):
            parts.append("external")
        else:
            _add_value(i, tensor, parts, reals, weights)
    parts.append("->")
    for tensor in node.outputs:
        if tensor.name:
            parts += (bool(tensor.outputs) or tensor.name in outputs, tensor_dtype(tensor), _shape(tensor))
        else:
            parts.append(None)
    return (tuple(parts), tuple(reals)), tuple(weights)


def _add_value(place: int, tensor: Any, parts: list[Any], reals: list[Any], weights: list[Any]) -> None:
    """The value of a constant: to the kind itself if it is a size or the like, else to the weights."""
    count = 1
    for dim in tensor.shape:
        count *= dim
    dtype = tensor_dtype(tensor)
    small = count * (dtype.itemsize if dtype is not None else 8) <= SMALL
    value = _raw(tensor) if small else id(tensor)
    if small and dtype is not None and dtype.kind in "iub":
        parts.append(value)
        return
    if small and count <= WEIGHTS:
        reals.append(value)
    parts.append("weight")
    weights.append((place, value))


def _raw(tensor: Any) -> bytes:
    proto = getattr(tensor._values, "tensor", None)
    raw = getattr(proto, "raw_data", b"")
    return raw or value_of(tensor).tobytes()


def site_of(node: Any, opset: int, outputs: set[str], host: set[str], target: str) -> Site:
    """The node as a site with placeholder names."""
    inputs: list[Operand | None] = []
    seen: dict[int, int] = {}
    for i, tensor in enumerate(node.inputs):
        if not tensor.name:
            inputs.append(None)
            continue
        place = seen.setdefault(id(tensor), i)
        inputs.append(_operand(f"in{place}", tensor, tensor.name in host))
    results: list[Operand | None] = []
    for i, tensor in enumerate(node.outputs):
        if not tensor.name:
            results.append(None)
            continue
        used = bool(tensor.outputs) or tensor.name in outputs
        results.append(Operand(f"out{i}", tensor_dtype(tensor), _shape(tensor), used=used))
    attributes = {k: _plain(v) for k, v in node.attrs.items()}
    return Site(node.op, domain_of(node), opset, attributes, tuple(inputs), tuple(results), target)


def _operand(name: str, tensor: Any, host: bool) -> Operand:
    dtype, shape = tensor_dtype(tensor), _shape(tensor)
    if not isinstance(tensor, gs.Constant):
        return Operand(name, dtype, shape, shape_only=host)
    if is_external(tensor):
        return Operand(name, dtype, shape)
    return Operand(name, dtype, shape, constant=True, read=lambda: value_of(tensor))


def watched(site: Site, reads: set[int]) -> Site:
    """The site; `reads` gets the places of inputs whose values are looked at."""

    def note(i: int, operand: Operand) -> Callable[[], Any]:
        def read() -> Any:
            reads.add(i)
            return operand.value

        return read

    inputs = [
        replace(o, read=note(i, o)) if o is not None and o.constant else o for i, o in enumerate(site.inputs)
    ]
    return replace(site, inputs=tuple(inputs))


def _shape(tensor: Any) -> tuple[Any, ...] | None:
    return tuple(tensor.shape) if tensor.shape is not None else None


def _plain(value: Any) -> Any:
    """A graphsurgeon attribute as rules see it."""
    return value_of(value) if isinstance(value, gs.Constant) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, (int, float, str, bytes, bool)) or value is None:
        return value
    return id(value)


def proto_of(node: Any, site: Site) -> onnx.NodeProto:
    """The node alone with the site's names."""
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    proto: onnx.NodeProto = OnnxExporter.export_node(node)
    for i, operand in enumerate(site.inputs):
        proto.input[i] = operand.name if operand is not None else ""
    for i, operand in enumerate(site.outputs):
        proto.output[i] = operand.name if operand is not None else ""  # a name counts, read or not
    while proto.output and not proto.output[-1]:
        del proto.output[-1]
    return proto
