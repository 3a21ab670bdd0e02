"""What a target will not take, told from its tables alone: nothing is parsed, built or run, and no weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from surgery.diagnose.facts import SHAPES, Facts, Kind, Place, kind_of, used
from surgery.targets.restrictions import Restriction, restrictions, restrictions_of

if TYPE_CHECKING:
    import onnx

    from surgery.targets import Target

CONSTANT, SHAPE, VALUE = 0, 1, 2
"""What a tensor depends on: constants alone; free dims of inputs, too; values of inputs, too."""

MAX_K = 3840
"""Most elements that TopK selects."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that the tables say a target does not take.

    Attributes:
        kind: ``operator``: it has none of that name; ``restriction``: not used like this; ``type``: an input or
            a constant of a type that a network cannot have; ``values``: values of an input decide a shape, so
            they need a range, or have to be constant.
        step: The step that refuses it.
        name: Label of the node, or name of the input or constant.
        op: The node's operator, or None.
        reason: Why, in plain words.
        failure: The class of failures in the catalogue, or None.
        place: The node, or None.
    """

    kind: Literal["operator", "restriction", "type", "values"]
    step: Literal["parse", "build"]
    name: str
    op: str | None
    reason: str
    failure: str | None = None
    place: Place | None = None


class Flow:
    """What each tensor of a model depends on, found in one pass."""

    def __init__(self, facts: Facts) -> None:
        self._levels: dict[tuple[int, str], int] = {}
        self.facts = facts
        for place in facts.places:
            level = self._of_node(place)
            for name in place.node.output:
                if name:
                    self._levels[(id(place.scope), name)] = level

    def _of_node(self, place: Place) -> int:
        node = place.node
        if node.op_type in SHAPES and node.input:
            dims = place.scope.kind(node.input[0]).dims
            return CONSTANT if dims is not None and all(isinstance(d, int) for d in dims) else SHAPE
        return max((self.level(place, name) for name in used(node)), default=CONSTANT)

    def level(self, place: Place, name: str) -> int:
        """What a tensor depends on, seen from a node."""
        holder = place.scope.holder(name)
        if holder is None or name in holder.constants or name in holder.sparse:
            return CONSTANT
        if name in holder.inputs:
            return VALUE
        return self._levels.get((id(holder), name), VALUE)

    def operand(self, place: Place, position: int) -> int | None:
        """What an operand depends on; None where it is not given."""
        node = place.node
        if position >= len(node.input) or not node.input[position]:
            return None
        return self.level(place, node.input[position])


def refusals(facts: Facts, target: Target) -> Iterator[Refusal]:
    """What the tables say that the target does not take, in the order of the graph.

    Args:
        facts: The model, with local functions expanded (what is left of them is not looked into).
        target: Any target; it does not have to be installed.
    """
    yield from _types(facts, target)
    flow = Flow(facts)
    functions = set(facts.functions)
    for place in facts.places:
        node = place.node
        if (node.domain, node.op_type) in functions:
            continue
        lacking = _operator(place, target)
        if lacking is not None:
            yield lacking
            continue
        if node.domain not in ("", "ai.onnx"):
            continue
        for restriction in restrictions_of(target.flavour, target.version, node.op_type):
            if holds(restriction, place, flow):
                yield Refusal(
                    "restriction", restriction.step, place.label, node.op_type, restriction.reason,
                    restriction.failure, place,
                )  # fmt: skip
                break
        else:
            yield from _values(place, flow)


def _operator(place: Place, target: Target) -> Refusal | None:
    node = place.node
    standard = node.domain in ("", "ai.onnx")
    entry = target.operator(node.op_type) if standard else None
    if entry is not None:
        if entry.supported:
            return None
        step: Any = entry.refused_at or "parse"
        reason = entry.restrictions or f"{target.name} has no {node.op_type}"
        return Refusal("operator", step, place.label, node.op_type, reason, None, place)
    plugin = target.plugin(node.op_type)
    if plugin is not None and plugin.available:
        return None
    where = "the default domain" if standard else f"domain {node.domain!r}"
    reason = f"{target.name} knows no operator or plugin {node.op_type} of {where}"
    return Refusal("operator", "parse", place.label, node.op_type, reason, None, place)


def _types(facts: Facts, target: Target) -> Iterator[Refusal]:
    allowed = restrictions().network_types[target.flavour]
    graph = facts.model.graph
    named: dict[str, tuple[str, Kind]] = {
        v.name: ("input", kind_of(v)) for v in graph.input if v.name not in facts.main.constants
    }
    for tensor in graph.initializer:
        named[tensor.name] = ("constant", facts.main.kind(tensor.name))
    for name, (what, kind) in named.items():
        if kind.dtype is None or kind.dtype in allowed:
            continue
        yield Refusal(
            "type",
            "parse",
            name,
            None,
            f"{what} of type {kind.dtype}: a network can have none",
            "int16-dtype",
        )


def _values(place: Place, flow: Flow) -> Iterator[Refusal]:
    positions = restrictions().shape_operands.get(place.node.op_type, ())
    if not any(flow.operand(place, p) == VALUE for p in positions):
        return
    at = next(p for p in positions if flow.operand(place, p) == VALUE)
    yield Refusal(
        "values", "build", place.label, place.node.op_type,
        f"operand {at} ({place.node.input[at]!r}) decides a shape and depends on values of inputs: they need a "
        "range of values in the profile, or have to be constant", "shape-input-no-profile", place,
    )  # fmt: skip


# -- conditions ----------------------------------------------------------------------------------------------


def holds(restriction: Restriction, place: Place, flow: Flow) -> bool:
    """Whether all conditions of a restriction are seen at a node; what cannot be told is not seen."""
    when = restriction.when
    return all(check(place, flow, when) for key, check in CONDITIONS.items() if key in when)


def _attribute(place: Place, flow: Flow, when: Mapping[str, Any]) -> bool:
    found = next((a for a in place.node.attribute if a.name == when["attribute"]), None)
    value = when.get("default") if found is None else _plain(found)
    values = value if isinstance(value, list) else [value]
    if "is" in when:
        return any(v in when["is"] for v in values)
    return any(v not in when["not"] for v in values)


def _plain(attribute: onnx.AttributeProto) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _dtypes(place: Place, flow: Flow, when: Mapping[str, Any]) -> bool:
    wanted = when["dtypes"]
    for key, names in (("operands", place.node.input), ("results", place.node.output)):
        for position in when.get(key, ()):
            if position < len(names) and names[position]:
                if place.scope.kind(names[position]).dtype in wanted:
                    return True
                if key == "results" and _cast_to(place, position) in wanted:
                    return True
    return False


def _cast_to(place: Place, position: int) -> str | None:
    from surgery.diagnose.facts import dtype_name

    to = next((a.i for a in place.node.attribute if a.name == "to"), 0)
    return dtype_name(to) if to and position == 0 else None


def _varying(least: int) -> Callable[[Place, Flow, Sequence[int]], bool]:
    return lambda place, flow, at: any((flow.operand(place, p) or 0) >= least for p in at)


def _stored(place: Place, position: int) -> bool:
    name = place.node.input[position]
    holder = place.scope.holder(name)
    if holder is None:
        return False
    made = holder.producers.get(name)
    return name in holder.constants or (made is not None and made.node.op_type == "Constant")


def _given(place: Place, position: int) -> bool:
    return position < len(place.node.input) and bool(place.node.input[position])


def _rank(place: Place, flow: Flow, when: Mapping[str, Any]) -> bool:
    position = when["rank"]
    if not _given(place, position):
        return False
    dims = place.scope.kind(place.node.input[position]).dims
    if dims is None:
        return False
    return len(dims) in when["is"] if "is" in when else len(dims) not in when["not"]


def constant_of(place: Place, name: str) -> Any:
    """The value of a small constant as an array, or None if it is none, large, or not in the file."""
    import onnx

    holder = place.scope.holder(name)
    if holder is None:
        return None
    tensor = holder.constants.get(name)
    made = holder.producers.get(name)
    if tensor is None and made is not None and made.node.op_type == "Constant":
        tensor = next((a.t for a in made.node.attribute if a.name == "value"), None)
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception:  # a tensor that is damaged, or was left out: onnx raises many types
        return None


def _nonzero(place: Place, flow: Flow, when: Mapping[str, Any]) -> bool:
    if not _given(place, when["nonzero"]):
        return False
    value = constant_of(place, place.node.input[when["nonzero"]])
    return value is not None and bool((value.astype("float64") != 0).any())


def _test(place: Place, flow: Flow, when: Mapping[str, Any]) -> bool:
    return TESTS[when["test"]](place, flow)


_Condition = Callable[[Place, Flow, Mapping[str, Any]], bool]

CONDITIONS: Mapping[str, _Condition] = {
    "attribute": _attribute,
    "dtypes": _dtypes,
    "not_constant": lambda p, f, w: _varying(SHAPE)(p, f, w["not_constant"]),
    "from_values": lambda p, f, w: _varying(VALUE)(p, f, w["from_values"]),
    "not_initializer": lambda p, f, w: any(_given(p, i) and not _stored(p, i) for i in w["not_initializer"]),
    "given": lambda p, f, w: all(_given(p, i) for i in w["given"]),
    "outputs": lambda p, f, w: sum(map(bool, p.node.output)) > w["outputs"],
    "rank": _rank,
    "nonzero": _nonzero,
    "test": _test,
}
"""What the keys of ``when`` mean."""


def _not_an_output(place: Place, flow: Flow) -> bool:
    outputs = {o.name for o in flow.facts.model.graph.output}
    return place.scope is not flow.facts.main or place.node.output[0] not in outputs


def _resize_axes(place: Place, flow: Flow) -> bool:
    axes = next((list(a.ints) for a in place.node.attribute if a.name == "axes"), None)
    if axes is None or not _given(place, 2):
        return False
    dims = place.scope.kind(place.node.input[0]).dims
    return dims is None or axes != list(range(len(dims)))


def _axes_not_stored(place: Place, flow: Flow) -> bool:
    """The parser resolves axes through Identity and Cast, and through nothing else (asked on 1.7.1)."""
    if not _given(place, 1):
        return False
    name, scope = place.node.input[1], place.scope
    while (holder := scope.holder(name)) is not None and name not in holder.constants:
        made = holder.producers.get(name)
        if made is None or made.node.op_type not in ("Identity", "Cast", "Constant"):
            return True
        if made.node.op_type == "Constant":
            return False
        name, scope = made.node.input[0], made.scope
    return False


def _dims(place: Place, position: int) -> Sequence[int | str | None] | None:
    return place.scope.kind(place.node.input[position]).dims if _given(place, position) else None


def _number(place: Place, name: str) -> int | None:
    found = next((a.i for a in place.node.attribute if a.name == name), 0)
    return found or None


def _key_and_value_differ(place: Place, flow: Flow) -> bool:
    key, value = _dims(place, 1), _dims(place, 2)
    if key is None or value is None or len(key) != len(value):
        return False
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(key, value, strict=True))


def _attention_without_kernel(place: Place, flow: Flow) -> bool:
    """Asked on 1.7.1, for head sizes of 4 to 512, one and several queries, with and without masks."""
    query = _dims(place, 0)
    if query is None or len(query) not in (3, 4):
        return False
    heads, groups = _number(place, "q_num_heads"), _number(place, "kv_num_heads")
    if len(query) == 3:
        plain = heads == groups and not _given(place, 3) and not _number(place, "is_causal")
        if plain or not heads:
            return False
        queries, size = query[1], query[2] // heads if isinstance(query[2], int) else None
    else:
        queries, size = query[2], query[3] if isinstance(query[3], int) else None
    if queries == 1:
        return False
    if place.scope.kind(place.node.input[0]).dtype in ("float32", "float64"):
        return True
    return size is not None and not 16 <= size <= 256


def _kinds(place: Place) -> Iterator[Kind]:
    for name in (*place.node.input, *place.node.output):
        if name:
            yield place.scope.kind(name)


def _rank_above_8(place: Place, flow: Flow) -> bool:
    return any(kind.dims is not None and len(kind.dims) > 8 for kind in _kinds(place))


def _types_differ(place: Place, flow: Flow) -> bool:
    found = {place.scope.kind(name).dtype for name in place.node.input if name}
    return len(found - {None}) > 1


def _free_dims(place: Place, flow: Flow) -> bool:
    dims = _dims(place, 0)
    return dims is not None and any(not isinstance(d, int) for d in dims)


def _k_too_large(place: Place, flow: Flow) -> bool:
    value = constant_of(place, place.node.input[1]) if _given(place, 1) else None
    return value is not None and value.size == 1 and int(value.reshape(())) > MAX_K


def _uppercase(place: Place, flow: Flow) -> bool:
    return any(a.name == "equation" and a.s != a.s.lower() for a in place.node.attribute)


TESTS: Mapping[str, Callable[[Place, Flow], bool]] = {
    "rank-above-8": _rank_above_8,
    "types-differ": _types_differ,
    "free-dims": _free_dims,
    "k-too-large": _k_too_large,
    "uppercase-equation": _uppercase,
    "axes-not-stored": _axes_not_stored,
    "key-and-value-differ": _key_and_value_differ,
    "attention-without-kernel": _attention_without_kernel,
    "not-an-output": _not_an_output,
    "resize-axes": _resize_axes,
}
"""Conditions that take more than a line of data."""
