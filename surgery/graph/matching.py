"""What a match of a pattern is, and whether it may be taken out of its graph.

A match that fails says at which node, and why: :class:`Mismatch`. :mod:`surgery.graph.finding` looks for matches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from surgery.graph.pattern_text import said


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a pattern did not match: at which node, and how many nodes had matched before.

    Nearly none is ever read, so the text is made when it is asked for.
    """

    where: Any
    text: str
    arguments: tuple[Any, ...] = ()
    depth: int = 0

    @property
    def node(self) -> str:
        """Name of the node that does not fit."""
        return str(self.where.name)

    @property
    def op(self) -> str:
        """Its operator."""
        return str(self.where.op)

    @property
    def why(self) -> str:
        """What is wrong with it."""
        return self.text.format(*map(said, self.arguments))

    def __str__(self) -> str:
        return f"at {self.node or 'a nameless node'} ({self.op}): {self.why}"


@dataclass(frozen=True)
class Match:
    """A cut that a pattern found.

    Attributes:
        nodes: Its nodes, the one that was asked about first; without those that stay.
        kept: Nodes that belong to the pattern and stay.
        tensors: Captured tensors by name.
        lists: Captured further inputs by name.
        named: Captured nodes by name.
        attributes: Captured attributes by name.
        constants: Tensors whose value was part of the match.
        outputs: What the cut makes, None for an output that is not there.
    """

    nodes: tuple[Any, ...]
    kept: tuple[Any, ...]
    tensors: Mapping[str, Any]
    lists: Mapping[str, tuple[Any, ...]]
    named: Mapping[str, Any]
    attributes: Mapping[str, Any]
    constants: tuple[Any, ...]
    outputs: tuple[Any, ...]


class Scope:
    """The nodes of one graph while matches are taken out of it.

    Attributes:
        graph: The graph; matches never cross into the graphs around it or inside it.
        opset: Version of the default domain.
        outputs: Names of tensors that something other than a node reads: outputs of the graph and of bodies.
    """

    def __init__(self, graph: gs.Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.outputs = {t.name for t in graph.outputs}
        self._place = {id(node): place for place, node in enumerate(graph.nodes)}
        self._owner: dict[int, Any] = {}
        self._gone: dict[int, Any] = {}
        self._loose = False
        for node in graph.nodes:
            if node.attrs:
                self._inside(node, node)

    def _inside(self, node: gs.Node, owner: gs.Node) -> None:
        """What the bodies of a node read counts as read by the node."""
        for body in node.subgraphs():
            made = {t.name for t in body.inputs}
            for inner in body.nodes:
                self._owner[id(inner)] = owner
                made.update(t.name for t in inner.outputs)
                self._inside(inner, owner)
            self.outputs.update(t.name for t in body.outputs if t.name not in made)

    def producer(self, tensor: Any) -> Any:
        """The node of this graph that makes a tensor, or None."""
        made_by = tensor.inputs
        if not made_by:
            return None
        node = made_by[0]
        return node if id(node) in self._place else None

    def users(self, tensor: Any) -> Iterator[Any]:
        """Nodes of this graph that read a tensor, themselves or in their bodies; a node may come twice."""
        for node in tensor.outputs:
            key = id(node)
            if key not in self._gone:
                yield self._owner.get(key, node)

    def used(self, tensor: Any) -> bool:
        """Whether anything reads a tensor."""
        return tensor.name in self.outputs or any(True for _ in self.users(tensor))

    def alive(self, node: Any) -> bool:
        """Whether the node is in the graph, and has not been replaced."""
        return id(node) in self._place

    def last(self, nodes: Sequence[Any]) -> Any:
        """The node that comes last in the graph."""
        return max(nodes, key=lambda n: self._place[id(n)])

    def replace(self, gone: Sequence[Any], made: Sequence[Any], *, loose: bool = False) -> None:
        """Nodes have been taken out, and others put in the place of the last of them.

        Args:
            gone: Nodes that are no longer there.
            made: Those that are instead.
            loose: A user of what they make may stand before them.
        """
        self._loose |= loose
        place = max(self._place[id(n)] for n in gone)
        for node in gone:
            self._gone[id(node)] = node  # kept alive: another object must not get its id
            del self._place[id(node)]
        for node in made:
            self._place[id(node)] = place
            if node.attrs:
                self._inside(node, node)

    def illegal(self, match: Match) -> Mismatch | None:
        """Why the cut must not be taken out, or None: a value inside is read outside, or a cycle would arise."""
        cut = {id(n) for n in match.nodes}
        results = {id(t) for t in match.outputs if t is not None}
        for node in match.nodes:
            for tensor in node.outputs:
                if id(tensor) in results or not tensor.name:
                    continue
                if tensor.name in self.outputs:
                    why = "{} is inside of the match and an output of the graph"
                    return Mismatch(node, why, (tensor,), len(cut))
                for user in self.users(tensor):
                    if id(user) not in cut:
                        why = "{} is inside of the match and read by {} outside"
                        return Mismatch(node, why, (tensor, user), len(cut))
        makers = {id(self.producer(t)) for t in match.outputs if t is not None}
        if len(makers) > 1:
            return self._cycle(match, cut)
        return None

    def _cycle(self, match: Match, cut: set[int]) -> Mismatch | None:
        """A path that leaves the cut and comes back; the search ends at the cut's last place."""
        last = max(self._place[id(n)] for n in match.nodes)
        stack = [u for n in match.nodes for t in n.outputs for u in self.users(t) if id(u) not in cut]
        seen = {id(n) for n in stack}
        while stack:
            node = stack.pop()
            if not self._loose and self._place.get(id(node), -1) > last:
                continue
            for tensor in node.outputs:
                for user in self.users(tensor):
                    if id(user) in cut:
                        why = "a path leaves the match and comes back through {}"
                        return Mismatch(user, why, (node,), len(cut))
                    if id(user) not in seen:
                        seen.add(id(user))
                        stack.append(user)
        return None
