"""Bodies of If, Loop and Scan, to be made smaller: taken out as models of their own, or with nodes left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.diagnose.facts import Facts, Kind, Scope, used
from surgery.diagnose.parts import _complete
from surgery.diagnose.workcopy import _rename, declare
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

Path = tuple[tuple[int, int], ...]
"""Where a body is: position of the node and of its attribute, outermost first."""


def bodies_of(graph: onnx.GraphProto, path: Path = ()) -> Iterator[Path]:
    """Where the bodies in a graph are, those inside bodies after those around them."""
    for i, node in enumerate(graph.node):
        for k, attribute in enumerate(node.attribute):
            if attribute.HasField("g"):
                here = (*path, (i, k))
                yield here
                yield from bodies_of(attribute.g, here)


def count_nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and of the bodies in it, Constant nodes left out."""
    return sum(n.op_type != "Constant" for n in all_nodes(graph.node))


def _body(graph: onnx.GraphProto, path: Path) -> onnx.GraphProto:
    for i, k in path:
        graph = graph.node[i].attribute[k].g
    return graph


def _scope(facts: Facts, body: onnx.GraphProto) -> Scope | None:
    """What is known in a body; None where it has no node."""
    first = body.node[0] if body.node else None
    return next((p.scope for p in facts.places if p.node is first or p.scope.graph is body), None)


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def lifted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto | None:
    """A body as a model of its own; None if there is nothing in it, or what it reads cannot be declared.

    Args:
        model: The model; not changed.
        path: Where the body is.
    """
    import onnx

    body = _body(model.graph, path)
    scope = _scope(Facts(model), body)
    made = {o for n in body.node for o in n.output if o}
    outputs = [v for v in body.output if v.name in made]
    if scope is None or not outputs:
        return None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    del graph.input[:], graph.output[:], graph.value_info[:]
    here = made | {t.name for t in body.initializer} | {t.values.name for t in body.sparse_initializer}
    for name in dict.fromkeys(n for node in body.node for n in used(node)):
        if name in here:
            continue
        holder = scope.holder(name)
        stored = holder.constants.get(name) if holder is not None else None
        kind = scope.kind(name)
        if stored is not None:
            graph.initializer.append(stored)
        elif _complete(kind):
            graph.input.append(declare(name, kind))
        else:
            return None
    for value in outputs:
        kind = scope.kind(value.name)
        graph.output.append(
            declare(value.name, kind) if _complete(kind) else onnx.ValueInfoProto(name=value.name)
        )
    inside = {v.name for v in (*graph.input, *graph.output)}
    for name in sorted(made - inside):
        if _complete(scope.kind(name)):
            graph.value_info.append(declare(name, scope.kind(name)))
    result.graph.CopyFrom(graph)
    return result


@dataclass
class _Missing:
    """What stands in for tensors whose nodes are left out: inputs of the model, by the name that they had."""

    taken: set[str]
    inputs: dict[str, str]

    def name(self, name: str) -> str:
        """Name of the input."""
        if name not in self.inputs:
            new, number = f"{name}_given", 0
            while new in self.taken:
                number += 1
                new = f"{name}_given{number}"
            self.taken.add(new)
            self.inputs[name] = new
        return self.inputs[name]


class BodyParts:
    """Nodes of one body that can be left out; what they made becomes an input of the model, which the body captures.

    Args:
        model: The model; not changed.
        path: Where the body is.

    Attributes:
        units: Positions of nodes in the body that are left out together; Constant nodes are no units.
    """

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.model, self._path = model, path
        self._graph = _body(model.graph, path)
        scope = _scope(Facts(model), self._graph)
        self._kinds: dict[str, Kind] = {} if scope is None else dict(scope.kinds)
        self._taken = {n for node in all_nodes(model.graph.node) for n in (*node.input, *node.output)}
        self._taken |= {v.name for v in (*model.graph.input, *model.graph.output)}
        self._reads = [list(dict.fromkeys(used(n))) for n in self._graph.node]
        self._fixed: set[int] = set()
        self.units = self._units()

    def _units(self) -> list[tuple[int, ...]]:
        """Nodes, joined where the type of the tensor between them is not known."""
        nodes = self._graph.node
        leader = list(range(len(nodes)))

        def find(i: int) -> int:
            while leader[i] != i:
                i = leader[i]
            return i

        maker = {o: i for i, n in enumerate(nodes) for o in n.output if o and not _is_constant(n)}
        for i, reads in enumerate(self._reads):
            for name in reads:
                if name in maker and not _complete(self._kinds.get(name)):
                    a, b = sorted((find(maker[name]), find(i)))
                    leader[b] = a
        together: dict[int, list[int]] = {}
        for i, node in enumerate(nodes):
            if not _is_constant(node):
                together.setdefault(find(i), []).append(i)
        # An output of the body of no known type has to go on being made.
        ends = {v.name for v in self._graph.output if not _complete(self._kinds.get(v.name))}
        fixed = {k for k, v in together.items() if any(o in ends for i in v for o in nodes[i].output)}
        self._fixed = {i for k in fixed for i in together[k]}
        return [tuple(v) for k, v in together.items() if k not in fixed]

    def model_of(self, units: Iterable[int]) -> onnx.ModelProto:
        """The model with no more of these nodes in the body than those of some units."""
        import onnx

        kept = self._fixed | {i for u in units for i in self.units[u]}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        body = _body(model.graph, self._path)
        missing = _Missing(set(self._taken), {})
        nodes = [n for i, n in enumerate(body.node) if i in kept]
        ends = {v.name for v in body.output}
        read = {n for i in kept for n in self._reads[i]} | ends
        stored = [n for n in body.node if _is_constant(n) and set(n.output) & read]
        gone = {
            o for i, n in enumerate(body.node) if i not in kept and not _is_constant(n) for o in n.output if o
        }
        lost = [n for n in dict.fromkeys(n for i in sorted(kept) for n in self._reads[i]) if n in gone]
        fresh = [
            onnx.helper.make_node("Identity", [missing.name(name)], [name], name=f"{name}_given")
            for name in sorted(ends & gone)
        ]
        part = onnx.GraphProto()
        part.node.extend(nodes)
        for name in lost:
            _rename(part, name, missing.name(name))
        initial = [t for t in body.initializer if t.name in read]
        known = {v.name: v for v in body.value_info}
        del body.node[:], body.initializer[:], body.value_info[:]
        body.initializer.extend(initial)
        body.node.extend([*stored, *part.node, *fresh])
        made = {o for n in body.node for o in n.output}
        body.value_info.extend(v for n, v in known.items() if n in made)
        for name, new in missing.inputs.items():
            model.graph.input.append(declare(new, self._kinds[name]))
        return model
