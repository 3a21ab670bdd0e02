"""A view over a graph: who makes a tensor, who uses it, what lies between.

Nodes are integers (positions in ``graph.nodes``): graphsurgeon's own objects are unhashable and compare by
content. A node that holds subgraphs uses the outer tensors that its bodies capture. Building the view is
linear in the graph; it describes the graph at that moment and is rebuilt after an edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class View:
    """Reachability and order over the nodes of one graph.

    Attributes:
        graph: The graph seen.
        nodes: Its nodes; the position in this list is a node's key.
        producer: Tensor name to the node that makes it.
        consumers: Tensor name to the nodes that use it, in order, captured uses included.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.nodes: list[gs.Node] = list(graph.nodes)
        self.producer: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = {}
        self.outputs: tuple[str, ...] = tuple(t.name for t in graph.outputs)
        self._uses: list[tuple[str, ...]] = []
        for key, node in enumerate(self.nodes):
            for tensor in node.outputs:
                if tensor.name:
                    self.producer[tensor.name] = key
            if has_bodies(node):
                used = tuple(dict.fromkeys(_uses(node)))
            else:
                used = tuple(dict.fromkeys([t.name for t in node.inputs if t.name]))
            self._uses.append(used)
            for name in used:
                if name in self.consumers:
                    self.consumers[name].append(key)
                else:
                    self.consumers[name] = [key]

    def uses(self, key: int) -> tuple[str, ...]:
        """Names of the tensors a node reads: inputs and what its subgraphs capture; constants included."""
        return self._uses[key]

    @cached_property
    def is_sorted(self) -> bool:
        """True if every node stands behind those that make what it reads."""
        producer = self.producer
        return all(producer.get(n, -1) < key for key, used in enumerate(self._uses) for n in used)

    @cached_property
    def order(self) -> list[int]:
        """Topological position of every node, stable: nodes keep their order where data flow allows it.

        Raises:
            ValueError: the graph has a cycle.
        """
        if self.is_sorted:
            return list(range(len(self.nodes)))
        makers = [{self.producer[n] for n in used if n in self.producer} for used in self._uses]
        waiting = [len(found) for found in makers]
        users: list[list[int]] = [[] for _ in makers]
        for key, found in enumerate(makers):
            for maker in found:
                users[maker].append(key)
        ready = [key for key, count in enumerate(waiting) if not count]  # ascending, so a heap
        position = [-1] * len(self.nodes)
        for place in range(len(self.nodes)):
            if not ready:
                raise ValueError("the graph has a cycle")
            key = heappop(ready)
            position[key] = place
            for user in users[key]:
                waiting[user] -= 1
                if not waiting[user]:
                    heappush(ready, user)
        return position

    def predecessors(self, key: int) -> Iterator[int]:
        """Nodes whose outputs this node reads."""
        return (self.producer[n] for n in self._uses[key] if n in self.producer)

    def successors(self, key: int) -> Iterator[int]:
        """Nodes that read this node's outputs."""
        for tensor in self.nodes[key].outputs:
            yield from self.consumers.get(tensor.name, ())

    def descendants(self, keys: Iterable[int]) -> set[int]:
        """Nodes reachable from `keys`, these included."""
        return self._reach(keys, self.successors)

    def ancestors(self, keys: Iterable[int]) -> set[int]:
        """Nodes that `keys` can be reached from, these included."""
        return self._reach(keys, self.predecessors)

    @staticmethod
    def _reach(keys: Iterable[int], step: object) -> set[int]:
        seen = set(keys)
        stack = list(seen)
        while stack:
            for other in step(stack.pop()):  # type: ignore[operator]
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return seen

    def between(self, keys: Iterable[int]) -> set[int]:
        """The convex hull: `keys` and every node on a path from one of them to another."""
        seeds = set(keys)
        return self.descendants(seeds) & self.ancestors(seeds)

    def is_convex(self, keys: Iterable[int]) -> bool:
        """True if no path leaves the set and comes back; the search is bounded by topological position."""
        inside = set(keys)
        if not inside:
            return True
        last = max(self.order[k] for k in inside)
        stack = [s for k in inside for s in self.successors(k) if s not in inside]
        seen = set(stack)
        while stack:
            key = stack.pop()
            if self.order[key] > last:
                continue
            for other in self.successors(key):
                if other in inside:
                    return False
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return True


def has_bodies(node: gs.Node) -> bool:
    """True if the node holds subgraphs; cheaper than asking for them."""
    import onnx_graphsurgeon as gs

    return bool(node.attrs) and any(isinstance(v, gs.Graph) for v in node.attrs.values())


def _uses(node: gs.Node) -> Iterator[str]:
    import onnx_graphsurgeon as gs

    for tensor in node.inputs:
        if tensor.name:
            yield tensor.name
    for sub in node.subgraphs():
        inner: set[str] = {t.name for t in sub.inputs}
        for child in sub.nodes:
            inner.update(t.name for t in child.outputs)
        for child in sub.nodes:
            for name in _uses(child):
                if name not in inner:
                    yield name
        for tensor in sub.outputs:
            if tensor.name not in inner and not isinstance(tensor, gs.Constant):
                yield tensor.name


def body_nodes(node: gs.Node) -> Iterator[gs.Node]:
    """All nodes inside a node's subgraphs, however deep."""
    if not has_bodies(node):
        return
    for sub in node.subgraphs():
        for child in sub.nodes:
            yield child
            yield from body_nodes(child)


def graph_and_bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """A graph and the bodies in it, at any depth."""
    yield graph
    for node in graph.nodes:
        for body in node.subgraphs():
            yield from graph_and_bodies(body)


def captured_names(body: gs.Graph) -> Iterator[str]:
    """Names that a body and the bodies inside it read; the body's own are among them."""
    import onnx_graphsurgeon as gs

    for node in body.nodes:
        yield from (t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant))
        for inner in node.subgraphs():
            own = {t.name for t in inner.inputs} | {t.name for n in inner.nodes for t in n.outputs}
            yield from (n for n in captured_names(inner) if n not in own)
    yield from (t.name for t in body.outputs if not isinstance(t, gs.Constant))
