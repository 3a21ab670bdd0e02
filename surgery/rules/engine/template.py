"""A rule applied to one class of nodes: written once, proven once, put into the graph as often as needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.graph.body import MAX_OPSET, MIN_OPSET, Body
from surgery.graph.evaluate import EvaluationError, evaluate_somehow
from surgery.graph.infer import dims_of
from surgery.graph.typed import infer_shapes
from surgery.rules.engine.rule import Bounded, NoMatch
from surgery.rules.engine.samples import sample_feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.rules.engine.site import Operand, Site

    Arrays = Mapping[str, NDArray[Any]]

CASES = 2
"""Random inputs that an application is run on, before and after."""

TOLERANCES: dict[str, tuple[float, float]] = {
    "float64": (1e-9, 1e-9),
    "float32": (1e-5, 1e-4),
    "float16": (2e-3, 1e-2),
    "bfloat16": (1e-2, 4e-2),
}
"""Absolute tolerance, relative to the largest expected magnitude where that is above 1, and relative tolerance.

A rule may compute in another order, never less exactly than its dtype: a few roundings of it are allowed.
"""


class Unproven(Exception):  # noqa: N818 - the outcome of a proof
    """The replacement does not compute what the node computes."""


@dataclass(frozen=True)
class Template:
    """A replacement with placeholder names.

    Attributes:
        nodes: Its nodes; inputs are the site's names, outputs the site's.
        outputs: What stands for each output of the site.
        types: Name to (dtype, shape) of inner tensors.
        verified: ``passed`` or ``skipped: <reason>``.
        error: Largest absolute difference that was seen.
    """

    nodes: tuple[onnx.NodeProto, ...]
    outputs: tuple[str | Bounded | None, ...]
    types: Mapping[str, tuple[np.dtype[Any] | None, list[Any] | None]]
    verified: str
    error: float | None
    has_bodies: bool


def first_opset(rule: Any) -> int:
    """The first opset that a rule writes for: what all can, unless it is for older ones alone."""
    since, until = getattr(rule, "since", 1), getattr(rule, "until", None)
    return int(since) if until is not None and until < MIN_OPSET else max(int(since), MIN_OPSET)


def write(rule: Any, site: Site) -> tuple[list[onnx.NodeProto], list[str | Bounded | None]]:
    """Let the rule write its replacement.

    Raises:
        NoMatch: it does not apply. NeedsConstant: it would with a value.
    """
    least = first_opset(rule)
    if not least <= site.opset <= MAX_OPSET:
        raise NoMatch(f"rules are written for opsets {least} to {MAX_OPSET}, not {site.opset}")
    body = Body(site.opset, least=least)
    built = rule.build(site, body)
    outputs = list(built) if isinstance(built, (list, tuple)) else [built]
    for i, wanted in enumerate(site.outputs):
        if wanted is not None and wanted.used and (i >= len(outputs) or outputs[i] is None):
            raise NoMatch(f"output {i} is used, and the rule does not make it")
    return list(body.nodes), outputs


def prove(
    site: Site,
    node: onnx.NodeProto | Sequence[onnx.NodeProto],
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str | Bounded | None],
    *,
    seed: int,
    feeds: Arrays | None = None,
    domains: Mapping[str, int] | None = None,
) -> tuple[str, float | None]:
    """Run the node, or the nodes of a cut, and the replacement on the same values.

    Returns:
        ``passed`` and the largest absolute difference, or ``skipped: <why>`` if the node itself does not run.

    Raises:
        Unproven: the replacement does not run, or differs.
    """
    wanted = [(i, o) for i, o in enumerate(site.outputs) if o is not None and o.used]
    originals = [node] if isinstance(node, onnx.NodeProto) else node
    before = _model(originals, site, [(o.name, o) for _, o in wanted], domains)
    names: list[tuple[str, Operand | None]] = []
    for i, operand in wanted:
        made = outputs[i]
        if isinstance(made, Bounded):
            names += [(made.value, None), (made.count, None)]
        else:
            assert made is not None
            names.append((made, operand))
    after = _model(nodes, site, list(dict(names).items()), domains)
    worst = 0.0
    ran = 0
    why = "no sample"
    for case in sample_feeds(site, seed, CASES, feeds):
        try:
            expected = evaluate_somehow(before, case)
        except EvaluationError as error:
            why = str(error)
            continue
        if not all(isinstance(outputs[i], Bounded) or _as_declared(o, expected[o.name]) for i, o in wanted):
            why = "no values were found that keep the declared shapes"
            continue
        try:
            found = evaluate_somehow(after, case)
        except EvaluationError as error:
            raise Unproven(f"the replacement does not run: {error}") from error
        ran += 1
        for i, operand in wanted:
            made = outputs[i]
            if isinstance(made, Bounded):
                count = int(np.max(found[made.count]))
                value = np.take(found[made.value], range(count), axis=made.axis)
            else:
                value = found[str(made)]
            worst = max(worst, _difference(expected[operand.name], value, f"output {i}"))
        if ran == CASES:
            break
    if not ran:
        return f"skipped: the node does not run on its own: {why[:160]}", None
    return "passed", worst


def _as_declared(operand: Operand, value: NDArray[Any]) -> bool:
    """Whether a result has the shape that the model declares: values that contradict it prove nothing."""
    dims = operand.shape
    if dims is None:
        return True
    return len(dims) == value.ndim and all(
        not isinstance(d, int) or d == n for d, n in zip(dims, value.shape, strict=True)
    )


def _difference(expected: NDArray[Any], value: NDArray[Any], what: str) -> float:
    if expected.dtype != value.dtype or expected.shape != value.shape:
        raise Unproven(
            f"{what} is {value.dtype}{list(value.shape)}, was {expected.dtype}{list(expected.shape)}"
        )
    if not expected.size:
        return 0.0
    name = expected.dtype.name
    if name not in TOLERANCES and not name.startswith("float"):
        if not np.array_equal(expected, value):
            raise Unproven(f"{what} differs in {int(np.sum(expected != value))} of {value.size} values")
        return 0.0
    absolute, relative = TOLERANCES.get(name, (0.0, 0.0))
    a, b = expected.astype(np.float64), value.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        raise Unproven(f"{what} differs where it is not finite")
    if not finite.any():
        return 0.0
    error = np.abs(a[finite] - b[finite])
    scale = max(1.0, float(np.max(np.abs(a[finite]))))
    if np.any(error > absolute * scale + relative * np.abs(a[finite])):
        raise Unproven(f"{what} is off by {float(error.max()):.3g}")
    return float(error.max())


def _model(
    nodes: Sequence[onnx.NodeProto],
    site: Site,
    outputs: Sequence[tuple[str, Operand | None]],
    domains: Mapping[str, int] | None,
) -> onnx.ModelProto:
    helper = onnx.helper
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[onnx.TensorProto] = []
    seen: set[str] = set()
    for operand in site.inputs:
        if operand is None or operand.name in seen:
            continue
        seen.add(operand.name)
        value = operand.value
        if value is not None:
            initializers.append(onnx.numpy_helper.from_array(value, operand.name))
        else:
            inputs.append(value_info(operand))
    results = [
        value_info(o) if o is not None and o.name == n and o.dtype is not None else _open(n, o)
        for n, o in outputs
    ]
    used = {n.domain for n in _all(nodes)} - {"", "ai.onnx"}
    known = {**dict.fromkeys(sorted(used), 1), **{k: v for k, v in (domains or {}).items() if k in used}}
    graph = helper.make_graph(list(nodes), "proof", inputs, results, initializers)
    imports = [helper.make_opsetid("", site.opset), *(helper.make_opsetid(d, v) for d, v in known.items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _all(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found = []
    for node in nodes:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _all(attribute.g.node)
    return found


def value_info(operand: Operand) -> onnx.ValueInfoProto:
    """The operand's declaration; without shape where a dim is not known."""
    if operand.dtype is None:
        raise NoMatch(f"the dtype of {operand.name} is not known")
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype))
    return onnx.helper.make_tensor_value_info(operand.name, kind, operand.shape)


def _open(name: str, operand: Operand | None) -> onnx.ValueInfoProto:
    if operand is not None and operand.dtype is not None:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype))
        return onnx.helper.make_tensor_value_info(name, kind, None)
    value = onnx.ValueInfoProto()
    value.name = name
    return value


def template(
    rule: Any,
    site: Site,
    node: onnx.NodeProto | Sequence[onnx.NodeProto],
    *,
    seed: int,
    feeds: Arrays | None = None,
    domains: Mapping[str, int] | None = None,
) -> Template:
    """Write, prove and type a replacement.

    Raises:
        NoMatch, NeedsConstant: from the rule. Unproven: the replacement computes something else.
    """
    nodes, outputs = write(rule, site)
    verified, error = prove(site, node, nodes, outputs, seed=seed, feeds=feeds, domains=domains)
    flat = [n for o in outputs for n in ((o.value, o.count) if isinstance(o, Bounded) else (o,)) if n]
    model = _model(nodes, site, [(n, None) for n in dict.fromkeys(flat)], domains)
    types: dict[str, tuple[np.dtype[Any] | None, list[Any] | None]] = {}
    try:
        inferred = infer_shapes(model, data_prop=True)
    except Exception:  # inference is a help, never a condition; onnx raises many undocumented types
        inferred = model
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type.elem_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else None
        types[value.name] = (dtype, dims_of(value))
    bodies = any(a.HasField("g") for n in nodes for a in n.attribute)
    return Template(tuple(nodes), tuple(outputs), types, verified, error, bodies)
