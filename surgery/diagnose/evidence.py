"""Conditions that a class of failures sets on the graph, as functions: seen, contradicted, or not to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from surgery.diagnose.catalogue import Entry, catalogue
from surgery.diagnose.facts import Facts, Place, dtype_name, label, used

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Case:
    """One message with what is known of the node that it is about."""

    text: str
    op: str | None
    domain: str | None
    place: Place | None
    tensor: str | None
    facts: Facts | None
    stack: tuple[str, ...] = ()


Answer = tuple["bool | None", str]
Check = Callable[[Case, "Place | None"], Answer]


def about_nodes(entry: Entry) -> bool:
    """Whether the evidence of a class is seen at one node."""
    e = entry.evidence
    return bool(e.ops or e.domains or e.not_constant or e.from_values or e.constant)


def checks_of(entry: Entry) -> list[Check]:
    """The conditions of a class as functions; its test comes last."""
    e = entry.evidence
    checks: list[Check] = []
    if e.ops:
        checks.append(lambda case, place: _operator(case, place, e.ops))
    if e.domains:
        checks.append(lambda case, place: _domain(case, place, e.domains))
    if e.dtypes:
        checks.append(lambda case, place: _dtypes(case, place, e.dtypes))
    if e.not_constant:
        checks.append(lambda case, place: _varying(case, place, e.not_constant))
    if e.from_values:
        checks.append(lambda case, place: _from_values(case, place, e.from_values))
    if e.constant:
        checks.append(lambda case, place: _constant(case, place, e.constant))
    if e.test is not None:
        checks.append(TESTS[e.test])
    return checks


def told(checks: Sequence[Check], case: Case, place: Place | None) -> list[Answer]:
    """The answers of all conditions for one node."""
    return [check(case, place) for check in checks]


def _operator(case: Case, place: Place | None, patterns: Sequence[str]) -> Answer:
    op = place.node.op_type if place is not None else case.op
    if op is None:
        return None, ""
    return any(fnmatchcase(op, p) for p in patterns), ""


def _domain(case: Case, place: Place | None, patterns: Sequence[str]) -> Answer:
    if place is None:
        return None, ""
    domain = place.node.domain
    return any(fnmatchcase(domain, p) for p in patterns), f"its domain is {domain!r}"


def _dtypes(case: Case, place: Place | None, dtypes: Sequence[str]) -> Answer:
    facts = case.facts
    if facts is None:
        return None, ""
    if place is not None:
        names = [n for n in (*place.node.input, *place.node.output) if n]
        kinds = {n: place.scope.kind(n).dtype for n in names}
        to = next((a.i for a in place.node.attribute if a.name == "to"), 0)
        if to:
            kinds["its attribute to"] = dtype_name(to)
    else:
        named = case.tensor
        scope = facts.main
        if named is not None and scope.kind(named).dtype is not None:
            kinds = {named: scope.kind(named).dtype}
        elif "importInput" in case.text:
            kinds = {v.name: scope.kind(v.name).dtype for v in facts.model.graph.input}
        else:
            kinds = {n: k.dtype for n, k in scope.kinds.items()}
    for name, dtype in kinds.items():
        if dtype in dtypes:
            return True, f"{name!r} is {dtype}" if name != "its attribute to" else f"it casts to {dtype}"
    return (False if all(kinds.values()) and kinds else None), ""


def _varying(case: Case, place: Place | None, positions: Sequence[int]) -> Answer:
    if place is None or case.facts is None:
        return None, ""
    for position in positions:
        if case.facts.constant(place, position) is False:
            return (
                True,
                f"operand {position} ({place.node.input[position]!r}) is computed when the model runs",
            )
    return False, ""


def _from_values(case: Case, place: Place | None, positions: Sequence[int]) -> Answer:
    if place is None or case.facts is None:
        return None, ""
    for position in positions:
        if position < len(place.node.input) and place.node.input[position]:
            sources = case.facts.sources(place.scope, place.node.input[position])
            if sources:
                return True, f"operand {position} depends on values of {', '.join(map(repr, sources))}"
    return False, ""


def _constant(case: Case, place: Place | None, positions: Sequence[int]) -> Answer:
    if place is None or case.facts is None:
        return None, ""
    return all(case.facts.constant(place, p) is True for p in positions), "its operand is constant"


def _dead(case: Case, place: Place | None) -> Answer:
    if place is None or case.facts is None:
        return None, ""
    return not case.facts.alive(place), "no output of the model depends on it"


def _schema(op: str, domain: str) -> bool:
    import onnx

    return onnx.defs.has(op, domain="" if domain == "ai.onnx" else domain)


def _standard(case: Case, place: Place | None) -> Answer:
    if case.op is None:
        return None, ""
    domain = place.node.domain if place is not None else ""
    return domain in ("", "ai.onnx") and _schema(case.op, ""), "it is a standard operator"


def _no_schema(case: Case, place: Place | None) -> Answer:
    if case.op is None:
        return None, ""
    domain = place.node.domain if place is not None else ""
    known = (
        catalogue()["contrib-domain-op"].evidence.domains + catalogue()["aten-fallback-op"].evidence.domains
    )
    if any(fnmatchcase(domain, p) for p in (*known, "ai.onnx.ml")) or _schema(case.op, domain):
        return False, ""
    return True, "ONNX defines no operator of that name and domain"


def _in_function(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    names = {f"({n})" for _, n in case.facts.functions}
    inside = (
        place is not None and (place.function is not None or place.node.name in case.facts.inlined)
    ) or any(entry.endswith(n) for entry in case.stack for n in names)
    return inside, "it lies in the body of a model-local function"


def _mask_indexing(case: Case, place: Place | None) -> Answer:
    if place is None:
        return None, ""
    names = {o for o in place.node.output if o}
    for node in place.scope.graph.node:
        if names.intersection(node.input):
            if node.op_type in ("GatherND", "ScatterND"):
                return True, f"its result indexes {node.op_type} {label(node)!r}"
            if node.op_type in ("Transpose", "Cast", "Identity", "Squeeze", "Unsqueeze", "Split", "Concat"):
                names.update(node.output)
    return False, ""


def _inside_if(case: Case, place: Place | None) -> Answer:
    if place is None:
        return None, ""
    return any(o.node.op_type == "If" for o in place.owners), "it lies in a branch of an If"


def _loop_without_condition(case: Case, place: Place | None) -> Answer:
    if place is None:
        return None, ""
    for depth, owner in enumerate(place.owners):
        inner = (*place.owners, place)[depth + 1]
        node = owner.node
        if node.op_type != "Loop" or (len(node.input) > 1 and node.input[1]):
            continue
        body = inner.scope.graph
        if len(body.input) > 1 and body.input[1].name in place.node.input:
            return (
                True,
                f"it reads the condition of Loop {label(node)!r}, whose condition input is left empty",
            )
    return False, ""


def _undefined(case: Case, place: Place | None) -> Answer:
    if place is None:
        return None, ""
    for name in place.node.input:
        if name and place.scope.holder(name) is None:
            return True, f"nothing defines {name!r}"
    return False, ""


def _sparse(case: Case, place: Place | None) -> Answer:
    if place is None:
        return None, ""
    for name in place.node.input:
        holder = place.scope.holder(name) if name else None
        if holder is not None and name in holder.sparse:
            return True, f"{name!r} is a sparse initializer"
    return False, ""


def _missing_attribute(case: Case, place: Place | None) -> Answer:
    import onnx

    if place is None or case.facts is None:
        return None, ""
    node = place.node
    try:
        version = case.facts.opsets.get(node.domain, 1)
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except (onnx.defs.SchemaError, TypeError):  # the latter where the version is no 32-bit number
        return None, ""
    given = {a.name for a in node.attribute}
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in given:
            return True, f"attribute {name!r} is missing"
    for given_one in node.attribute:
        known = schema.attributes.get(given_one.name)
        wanted = str(known.type).rsplit(".", 1)[-1] if known is not None else None
        if wanted and given_one.type and wanted != onnx.AttributeProto.AttributeType.Name(given_one.type):
            return True, f"attribute {given_one.name!r} is not of type {wanted}"
    return False, ""


def _free_inputs(facts: Facts) -> list[str]:
    constants = facts.main.constants
    return [
        v.name
        for v in facts.model.graph.input
        if v.name not in constants and any(not isinstance(d, int) for d in facts.main.kind(v.name).dims or ())
    ]


def _one_free(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    free = _free_inputs(case.facts)
    return len(free) == 1, f"{', '.join(map(repr, free))} has free dims"


def _several_free(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    free = _free_inputs(case.facts)
    return len(
        free
    ) > 1, f"{', '.join(map(repr, free))} have free dims, and the profile has to give all of them"


def _free_batch(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    return bool(_free_inputs(case.facts)), "the model has inputs with free dims"


def _operand_is_input(case: Case, place: Place | None) -> Answer:
    if place is None or case.facts is None:
        return None, ""
    inputs = {v.name for v in case.facts.model.graph.input}
    for position, name in enumerate(place.node.input):
        decides = position or place.node.op_type in ("Range", "ConstantOfShape")
        given = name in inputs and name not in case.facts.main.constants
        if decides and given and place.scope.holder(name) is case.facts.main:
            return True, f"operand {position} is the input {name!r}"
    return False, ""


def _external(case: Case, place: Place | None) -> Answer:
    import onnx

    if case.facts is None:
        return None, ""
    constants: Mapping[str, onnx.TensorProto] = case.facts.main.constants
    named = [constants[case.tensor]] if case.tensor and case.tensor in constants else list(constants.values())
    found = [t.name for t in named if t.data_location == onnx.TensorProto.EXTERNAL]
    return bool(found), f"the data of {', '.join(map(repr, found[:3]))} lies in another file"


def _cycle(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    found = cycle(case.facts)
    return bool(found), f"the cycle: {' -> '.join(found)}"


def cycle(facts: Facts) -> list[str]:
    """Labels of the nodes on a cycle of the main graph, or nothing."""
    import networkx as nx

    view = nx.DiGraph()
    nodes = [p for p in facts.places if p.scope is facts.main]
    for place in nodes:
        for name in used(place.node):
            if name in facts.main.producers:
                view.add_edge(id(facts.main.producers[name].node), id(place.node))
    try:
        edges = nx.find_cycle(view)
    except nx.NetworkXNoCycle:
        return []
    names = {id(p.node): p.label for p in nodes}
    return [names[a] for a, _ in edges]


def _unsorted(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    if cycle(case.facts):
        return False, ""
    seen: set[str] = set()
    for node in case.facts.model.graph.node:
        for name in used(node):
            if name in case.facts.main.producers and name not in seen:
                return True, f"{label(node)!r} comes before the node that makes {name!r}"
        seen.update(node.output)
    return False, ""


def _duplicate(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    seen: set[str] = set()
    for node in case.facts.model.graph.node:
        for name in node.output:
            if name and name in seen:
                return True, f"{name!r} is made twice"
            seen.add(name)
    return False, ""


def _no_outputs(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    graph = case.facts.model.graph
    return bool(graph.node) and not graph.output, "the graph has no outputs"


def _no_nodes(case: Case, place: Place | None) -> Answer:
    if case.facts is None:
        return None, ""
    return not case.facts.model.graph.node, "there is no graph in it"


TESTS: Mapping[str, Check] = {
    "dead": _dead,
    "standard-operator": _standard,
    "no-schema": _no_schema,
    "in-function": _in_function,
    "mask-indexing": _mask_indexing,
    "inside-if": _inside_if,
    "loop-without-condition": _loop_without_condition,
    "undefined-input": _undefined,
    "sparse-input": _sparse,
    "missing-attribute": _missing_attribute,
    "one-free-input": _one_free,
    "several-free-inputs": _several_free,
    "free-batch": _free_batch,
    "operand-is-input": _operand_is_input,
    "external-data": _external,
    "cycle": _cycle,
    "unsorted": _unsorted,
    "duplicate-name": _duplicate,
    "no-outputs": _no_outputs,
    "no-nodes": _no_nodes,
}
"""Tests that the catalogue names."""
