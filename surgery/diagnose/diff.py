"""The structural difference of two models: nodes are aligned by names, surroundings and neighbours."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.diagnose.facts import Kind, dtype_name, kind_of, label
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel

RADII = (4, 3, 2, 1, 0)
"""Steps around a node whose shape has to be the same for two nodes to be aligned, the strictest first."""

LONG = 80
"""Characters of an attribute's value that are shown."""


@dataclass(slots=True)
class GraphDifference:
    """How two graphs differ.

    Attributes:
        path: The nodes that they lie in, outermost first; empty for main graphs.
        removed: Nodes of the first that the second lacks: label and operator.
        added: Nodes of the second that the first lacks.
        changed: Nodes of both that differ: label in the first, label in the second, operator, what differs.
        renamed: Nodes of both with another name and nothing else.
        inputs: What differs in the inputs.
        outputs: What differs in the outputs.
        constants: What differs in the constants.
        same: Nodes of both that do not differ.
    """

    path: tuple[str, ...] = ()
    removed: list[tuple[str, str]] = field(default_factory=list)
    added: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    same: int = 0

    @property
    def equal(self) -> bool:
        """Whether nothing but names differs."""
        return not (
            self.removed or self.added or self.changed or self.inputs or self.outputs or self.constants
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "path": list(self.path),
            "equal": self.equal,
            "same": self.same,
            "removed": [{"name": n, "op": o} for n, o in self.removed],
            "added": [{"name": n, "op": o} for n, o in self.added],
            "changed": [
                {"name": a, "name_in_second": b, "op": o, "what": what} for a, b, o, what in self.changed
            ],
            "renamed": [{"from": a, "to": b} for a, b in self.renamed],
            "inputs": self.inputs,
            "outputs": self.outputs,
            "constants": self.constants,
        }


@dataclass(slots=True)
class Difference:
    """How two models differ.

    Attributes:
        header: What differs in versions and opsets.
        operators: Operator to how many nodes there are in the first and in the second, where that differs.
        functions: What differs in model-local functions.
        graphs: The main graphs first, then bodies and functions that differ.
    """

    header: list[str] = field(default_factory=list)
    operators: dict[str, tuple[int, int]] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    graphs: list[GraphDifference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing but names differs."""
        return not self.header and not self.functions and all(g.equal for g in self.graphs)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "equal": self.equal,
            "header": self.header,
            "operators": {o: list(n) for o, n in self.operators.items()},
            "functions": self.functions,
            "graphs": [g.to_dict() for g in self.graphs],
        }


def diff(first: str | Path | bytes, second: str | Path | bytes, *, weights: bool = True) -> Difference:
    """Align two models and say how they differ.

    Args:
        first: Path of an ``.onnx`` file, or its bytes.
        second: The other one.
        weights: Whether the numbers in constants are compared, too, not their types and shapes alone.

    Raises:
        ModelError: one of them cannot be read or is not valid ONNX.
    """
    from surgery.graph.load import load_model

    a, b = load_model(first), load_model(second)
    result = Difference(_header(a.proto, b.proto))
    counts = [Counter(_operator(n) for n in all_nodes(m.proto.graph.node)) for m in (a, b)]
    for op in sorted(set(counts[0]) | set(counts[1])):
        if counts[0][op] != counts[1][op]:
            result.operators[op] = (counts[0][op], counts[1][op])
    sides = (_Side(a, weights), _Side(b, weights))
    _compare(a.proto.graph, b.proto.graph, sides, (), result.graphs)
    _functions(a.proto, b.proto, sides, result)
    return result


def _header(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    found = []
    if a.ir_version != b.ir_version:
        found.append(f"IR version {a.ir_version} -> {b.ir_version}")
    opsets = [{o.domain if o.domain != "ai.onnx" else "": o.version for o in m.opset_import} for m in (a, b)]
    for domain in sorted(set(opsets[0]) | set(opsets[1])):
        old, new = (o.get(domain) for o in opsets)
        if old != new:
            found.append(f"opset {domain or 'ai.onnx'} {old or 'none'} -> {new or 'none'}")
    return found


def _functions(
    a: onnx.ModelProto, b: onnx.ModelProto, sides: tuple[_Side, _Side], result: Difference
) -> None:
    named = [
        {f"{f.domain}.{f.name}{':' + f.overload if f.overload else ''}": f for f in m.functions}
        for m in (a, b)
    ]
    for name in sorted(set(named[0]) | set(named[1])):
        old, new = (n.get(name) for n in named)
        if old is None or new is None:
            result.functions.append(f"{name} {'added' if old is None else 'removed'}")
            continue
        if list(old.input) != list(new.input) or list(old.output) != list(new.output):
            result.functions.append(f"{name}: other inputs or outputs")
        _compare(old, new, sides, (f"function {name}",), result.graphs)


class _Side:
    """One of the two models, with digests of its tensors."""

    def __init__(self, model: LoadedModel, weights: bool) -> None:
        self._base = model.base_dir
        self._weights = weights

    def digest(self, tensor: onnx.TensorProto) -> str:
        """Type, shape and, if weights are compared, numbers of a tensor; where they are stored does not count."""
        dims = "x".join(map(str, tensor.dims))
        head = f"{dtype_name(tensor.data_type)}[{dims}]"
        return f"{head} {self._numbers(tensor)}" if self._weights else head

    def _numbers(self, tensor: onnx.TensorProto) -> str:
        import onnx

        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._outside(tensor)
        if tensor.HasField("raw_data"):
            return _hash(tensor.raw_data)
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except Exception:  # a tensor that is damaged: as it is written
            return _hash(tensor.SerializeToString(deterministic=True))
        if tensor.data_type == onnx.TensorProto.STRING:
            return _hash("\0".join(map(str, array.reshape(-1))).encode())
        return _hash(onnx.numpy_helper.from_array(array).raw_data)

    def _outside(self, tensor: onnx.TensorProto) -> str:
        assert self._base is not None
        entry = {e.key: e.value for e in tensor.external_data}
        digest = hashlib.sha256()
        with (self._base / entry["location"]).open("rb") as file:
            file.seek(int(entry.get("offset", "0")))
            left = int(entry.get("length", "0")) or -1
            while left and (block := file.read(min(1 << 20, left) if left > 0 else 1 << 20)):
                digest.update(block)
                left = left - len(block) if left > 0 else left
        return digest.hexdigest()[:16]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


class _Graph:
    """A graph, a body or a function, for aligning."""

    def __init__(self, graph: Any, side: _Side) -> None:
        self.graph = graph
        self.side = side
        self.nodes = list(graph.node)
        self.maker = {o: (i, k) for i, n in enumerate(self.nodes) for k, o in enumerate(n.output) if o}
        self.readers: dict[str, list[tuple[int, int]]] = {}
        for i, node in enumerate(self.nodes):
            for k, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((i, k))
        tensors = getattr(graph, "initializer", ())
        self.constants = {t.name: side.digest(t) for t in tensors}
        self.inputs = {v if isinstance(v, str) else v.name: v for v in graph.input}
        self.outputs = [v if isinstance(v, str) else v.name for v in graph.output]
        self.own = [_hash(repr((_operator(n), self.attributes(n))).encode()) for n in self.nodes]

    def attributes(self, node: onnx.NodeProto) -> dict[str, str]:
        """Attributes as texts; bodies by their operators alone, for they are compared on their own."""
        found = {}
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            if attribute.HasField("g"):
                found[attribute.name] = f"{len(attribute.g.node)} nodes"
            elif attribute.HasField("t"):
                found[attribute.name] = self.side.digest(attribute.t)
            elif attribute.ref_attr_name:
                found[attribute.name] = f"@{attribute.ref_attr_name}"
            else:
                found[attribute.name] = _value(attribute)
        return found

    def around(self, radius: int) -> list[str]:
        """For each node, a digest of what lies within some steps of it."""
        hashes = list(self.own)
        for _ in range(radius):
            hashes = [
                _hash(repr((hashes[i], self._above(node, hashes), self._below(node, hashes))).encode())
                for i, node in enumerate(self.nodes)
            ]
        return hashes

    def _above(self, node: onnx.NodeProto, hashes: Sequence[str]) -> list[Any]:
        return [self.operand(n, hashes) for n in node.input]

    def operand(self, name: str, hashes: Sequence[str]) -> Any:
        """What an operand is, as far as that does not depend on its name."""
        if not name:
            return None
        if name in self.maker:
            at, k = self.maker[name]
            return (hashes[at], k)
        if name in self.constants:
            return self.constants[name]
        return "input" if name in self.inputs else "outside"

    def _below(self, node: onnx.NodeProto, hashes: Sequence[str]) -> list[Any]:
        return [
            (sorted((hashes[i], k) for i, k in self.readers.get(o, ())), o in self.outputs)
            for o in node.output
        ]


def _value(attribute: onnx.AttributeProto) -> str:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace"))
    if isinstance(value, (int, float)):
        return repr(value)
    return repr([v.decode(errors="replace") if isinstance(v, bytes) else v for v in value])


def _align(a: _Graph, b: _Graph) -> dict[int, int]:
    """Positions of nodes in the first to positions in the second."""
    found: dict[int, int] = {}
    taken: set[int] = set()

    def pair(i: int, j: int) -> bool:
        if i in found or j in taken:
            return False
        found[i] = j
        taken.add(j)
        return True

    names = [_unique({i: n.name for i, n in enumerate(g.nodes) if n.name}) for g in (a, b)]
    for name, i in names[0].items():
        if name in names[1] and _operator(a.nodes[i]) == _operator(b.nodes[names[1][name]]):
            pair(i, names[1][name])
    for radius in RADII:
        hashes = [
            _unique({i: h for i, h in enumerate(g.around(radius)) if i not in known})
            for g, known in ((a, found), (b, taken))
        ]
        for digest, i in hashes[0].items():
            if digest in hashes[1]:
                pair(i, hashes[1][digest])
        _spread(a, b, found, taken, pair)
    return found


def _unique(values: Mapping[int, str]) -> dict[str, int]:
    counts = Counter(values.values())
    return {v: i for i, v in values.items() if counts[v] == 1}


def _spread(a: _Graph, b: _Graph, found: dict[int, int], taken: set[int], pair: Any) -> None:
    """Align neighbours of aligned nodes at the same operand."""
    stack = list(found.items())
    while stack:
        i, j = stack.pop()
        for near, far in _neighbours(a, b, i, j):
            same = _operator(a.nodes[near]) == _operator(b.nodes[far])
            if near not in found and far not in taken and same and pair(near, far):
                stack.append((near, far))


def _neighbours(a: _Graph, b: _Graph, i: int, j: int) -> Iterator[tuple[int, int]]:
    for x, y in zip(a.nodes[i].input, b.nodes[j].input, strict=False):
        if x in a.maker and y in b.maker and a.maker[x][1] == b.maker[y][1]:
            yield a.maker[x][0], b.maker[y][0]
    for x, y in zip(a.nodes[i].output, b.nodes[j].output, strict=False):
        one, other = a.readers.get(x, ()), b.readers.get(y, ())
        for k in {k for _, k in one}:
            near, far = [p for p, q in one if q == k], [p for p, q in other if q == k]
            if len(near) == len(far) == 1:
                yield near[0], far[0]


def _compare(
    first: Any, second: Any, sides: tuple[_Side, _Side], path: tuple[str, ...], into: list[GraphDifference]
) -> None:
    a, b = _Graph(first, sides[0]), _Graph(second, sides[1])
    aligned = _align(a, b)
    result = GraphDifference(path)
    into.append(result)
    back = {j: i for i, j in aligned.items()}
    result.removed = [(label(n), _operator(n)) for i, n in enumerate(a.nodes) if i not in aligned]
    result.added = [(label(n), _operator(n)) for j, n in enumerate(b.nodes) if j not in back]
    names = _tensor_names(a, b, aligned)
    for i, j in sorted(aligned.items()):
        what = _changes(a, b, i, j, names)
        one, other = a.nodes[i], b.nodes[j]
        if what:
            result.changed.append((label(one), label(other), _operator(one), what))
        else:
            result.same += 1
            if one.name != other.name:
                result.renamed.append((label(one), label(other)))
        bodies = {x.name: x.g for x in other.attribute if x.HasField("g")}
        for attribute in one.attribute:
            if attribute.HasField("g") and attribute.name in bodies:
                inner = (*path, f"{one.op_type} {label(one)!r} {attribute.name}")
                _compare(attribute.g, bodies[attribute.name], sides, inner, into)
    if hasattr(first, "initializer"):
        result.inputs = _values(first.input, second.input)
        result.outputs = _values(first.output, second.output)
    result.constants = _constants(a, b, names)
    if path and result.equal:
        into.remove(result)


def _tensor_names(a: _Graph, b: _Graph, aligned: Mapping[int, int]) -> dict[str, str]:
    """Tensors of the first to what they are called in the second."""
    names = {n: n for n in a.inputs if n in b.inputs}
    names.update(
        {x: y for x, y in zip(a.inputs, b.inputs, strict=False) if x not in b.inputs and y not in a.inputs}
    )
    names.update({n: n for n in a.constants if n in b.constants})
    for i, j in aligned.items():
        names.update({x: y for x, y in zip(a.nodes[i].output, b.nodes[j].output, strict=False) if x})
        for x, y in zip(a.nodes[i].input, b.nodes[j].input, strict=False):
            if x in a.constants and x not in names and y in b.constants and a.constants[x] == b.constants[y]:
                names[x] = y
    return names


def _changes(a: _Graph, b: _Graph, i: int, j: int, names: Mapping[str, str]) -> list[str]:
    one, other = a.nodes[i], b.nodes[j]
    old, new = a.attributes(one), b.attributes(other)
    bodies = [{x.name for x in n.attribute if x.HasField("g")} for n in (one, other)]
    found = [
        f"{name} {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name) and name not in bodies[0] & bodies[1]
    ]
    for k in range(max(len(one.input), len(other.input))):
        x = one.input[k] if k < len(one.input) else ""
        y = other.input[k] if k < len(other.input) else ""
        if not x and not y:
            continue
        outside = x not in a.maker and x not in a.constants and x not in a.inputs
        if names.get(x, x if outside else None) != y:
            found.append(f"operand {k} {_told(a, x)} -> {_told(b, y)}")
    if len(one.output) != len(other.output):
        found.append(f"{len(one.output)} outputs -> {len(other.output)}")
    return found


def _told(graph: _Graph, name: str) -> str:
    if not name:
        return "none"
    if name in graph.maker:
        return f"{name!r} of {graph.nodes[graph.maker[name][0]].op_type}"
    return f"constant {name!r}" if name in graph.constants else repr(name)


def _short(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= LONG else text[:LONG] + "..."


def _values(first: Any, second: Any) -> list[str]:
    old, new = ({v.name: kind_of(v) for v in values} for values in (first, second))
    found = [f"{n} removed: {k}" for n, k in old.items() if n not in new]
    found += [f"{n} added: {k}" for n, k in new.items() if n not in old]
    found += [f"{n} {old[n]} -> {k}" for n, k in new.items() if n in old and _differs(old[n], k)]
    if not found and list(old) != list(new):
        found.append(f"order {', '.join(old)} -> {', '.join(new)}")
    return found


def _differs(old: Kind, new: Kind) -> bool:
    return old != new


def _constants(a: _Graph, b: _Graph, names: Mapping[str, str]) -> list[str]:
    found = []
    known = set()
    for name, digest in a.constants.items():
        other = names.get(name)
        if other is None or other not in b.constants:
            found.append(f"{name} removed: {digest.split()[0]}")
            continue
        known.add(other)
        new = b.constants[other]
        if digest != new:
            kinds = digest.split()[0], new.split()[0]
            found.append(
                f"{name} {kinds[0]} -> {kinds[1]}" if kinds[0] != kinds[1] else f"{name}: other numbers"
            )
    return found + [f"{n} added: {d.split()[0]}" for n, d in b.constants.items() if n not in known]


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
