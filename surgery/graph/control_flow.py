"""If, Loop and Scan: branches whose condition is known are inlined, loops whose length is known are unrolled.

What stays is what TensorRT can run as it stands; for the rest, :class:`Unresolved` says why it could not be resolved
and which operand would decide it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.alike_branches import alike
from surgery.graph.body_types import body_types, difference, surely_equal, take_type
from surgery.graph.both_branches import worth_both
from surgery.graph.cloner import Cloner, Once, prefix_of
from surgery.graph.conditions import implied, same_branches
from surgery.graph.infer import infer_types
from surgery.graph.nodes import choose, detach, forget_optionals, make_node, needed, squeeze_like
from surgery.graph.scope import Scope, known_value
from surgery.graph.unresolved import Unresolved, missed
from surgery.graph.unroll import SMALL, resolve_loop, resolve_scan

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

DEEP = 16
"""Depth of bodies inside bodies from which both branches of an If are computed; TensorRT refuses more than 24."""


def resolve_control_flow(
    graph: gs.Graph,
    *,
    small: int = SMALL,
    scans: bool = False,
    select: bool = False,
    products: list[str] | None = None,
    unresolved: list[Unresolved] | None = None,
) -> int:
    """Resolve what is known when the engine is built, in place, bodies inside bodies included.

    - If with a known condition: the branch alone stays. A condition counts as known inside its own branches.
    - If whose branches do the same on other numbers: one branch, on numbers that the condition chooses.
    - Loop with a known number of rounds (and a condition that stays true, or can be computed): unrolled, if it is
      short, or carries sequences or tensors whose shape changes.
    - Scan of known length: unrolled if asked for.
    - If with another condition and branches of equal shapes: both computed and selected from, if asked for, and
      where bodies are nested too deep; small ones with products of free size, if asked for.

    Args:
        graph: The graph, in topological order; model-local functions have been inlined.
        small: Rounds up to which loops are unrolled without need.
        scans: Whether to unroll Scan nodes.
        select: Whether to compute both branches of an If.
        products: Gets the names of small Ifs that are computed both ways for the products in them; without it
            these stay.
        unresolved: Gets an entry for each node that stays and that TensorRT cannot run, or not rightly.

    Returns:
        How many nodes were resolved.
    """
    total = 0
    forget_optionals(graph)
    while True:
        infer_types(graph)
        resolver = Resolver(graph, small=small, scans=scans, select=select, products=products)
        resolver.visit(graph, Scope(graph))
        total += resolver.count
        if not resolver.count:
            break
    if unresolved is not None:
        unresolved.extend(resolver.remaining)
    return total


def inline_branch(graph: gs.Graph, node: gs.Node, name: str) -> list[gs.Node]:
    """Put the nodes of one branch in the place of an If, whatever its condition; the new nodes.

    Args:
        graph: The outermost graph, which the If belongs to.
        node: The If.
        name: ``then_branch`` or ``else_branch``.
    """
    made = Cloner(graph).inlined(node.attrs[name], list(node.outputs), Scope(graph), Once(prefix_of(node)))
    place = next(i for i, n in enumerate(graph.nodes) if n is node)
    detach([node])
    nodes = list(graph.nodes)
    graph.nodes.clear()
    graph.nodes.extend([*nodes[:place], *made, *nodes[place + 1 :]])
    return made


class Resolver:
    """One pass over a graph and the bodies inside it.

    Args:
        graph: The outermost graph.
        small: Rounds up to which loops are unrolled without need.
        scans: Whether to unroll Scan nodes.
        select: Whether to compute both branches of an If.
        products: Gets the names of small Ifs that are computed both ways for the products in them.
        cloner: Copies bodies of the graph; a new one if None.

    Attributes:
        count: How many nodes were resolved.
        remaining: Nodes that were not, and why.
    """

    def __init__(
        self,
        graph: gs.Graph,
        *,
        small: int = 0,
        scans: bool = False,
        select: bool = False,
        products: list[str] | None = None,
        cloner: Cloner | None = None,
    ) -> None:
        self.small, self.scans, self.select, self.products = small, scans, select, products
        self.cloner = cloner or Cloner(graph)
        self.count = 0
        self.remaining: list[Unresolved] = []

    def visit(self, graph: gs.Graph, scope: Scope) -> None:
        """Resolve the nodes of one graph; what comes out of a node is looked at again."""
        queue = deque(graph.nodes)
        done: list[Any] = []
        while queue:
            node = queue.popleft()
            made = self._resolved(node, scope) if node.op in ("If", "Loop", "Scan") else None
            if made is None:
                for body, assumed in _bodies(node):
                    self.visit(body, Scope(body, scope, assumed))
                done.append(node)
                continue
            self.count += 1
            detach([node])
            for new in made:
                scope.add(new)
            queue.extendleft(reversed(made))
        graph.nodes.clear()
        graph.nodes.extend(done)

    def _resolved(self, node: gs.Node, scope: Scope) -> list[gs.Node] | None:
        if node.op == "If":
            found = self._if(node, scope)
        else:
            found = (resolve_loop if node.op == "Loop" else resolve_scan)(self, node, scope)
        if isinstance(found, Unresolved):
            self.remaining.append(found)
            return None
        return found

    def _if(self, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
        condition = known_value(node.inputs[0], scope)
        if condition is None and (value := implied(node.inputs[0], scope)) is not None:
            condition = np.asarray(value)
        if condition is not None and condition.size == 1:
            branch = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
            return self.cloner.inlined(branch, list(node.outputs), scope, Once(prefix_of(node)))
        same = same_branches(node, scope)
        if same is not None:
            prefix = prefix_of(node)
            pairs = [(a, b) for a, b in zip(same, node.outputs, strict=False) if b.name]
            return [make_node("Identity", f"{prefix}{b.name}", [a], [b]) for a, b in pairs]
        merged = self._merged(node, scope)
        if merged is not None:
            return merged
        branches = [node.attrs["then_branch"], node.attrs["else_branch"]]
        types = [body_types(b, scope) for b in branches]
        for output, left, right in zip(node.outputs, *types, strict=False):
            reason = difference(left, right) if output.name else ""
            if reason:
                said = f"the branches make {output.name!r} {reason}, so the condition has to be known"
                return missed(node, said, 0, "if-branch-shape-mismatch")
        wanted = self.select or scope.depth >= DEEP
        if not wanted and (self.products is None or not worth_both(branches, scope)):
            return None
        if not all(surely_equal(a, b) for a, b in zip(*types, strict=True)):
            return None
        made = self._selected(node, branches, scope)
        if made is not None and not wanted and self.products is not None:
            self.products.append(node.name or node.outputs[0].name)
        return made

    def _merged(self, node: gs.Node, scope: Scope) -> list[gs.Node] | None:
        """One branch on chosen numbers, where the other one does the same on its own."""
        import onnx_graphsurgeon as gs

        choices = alike(node, scope)
        prefix, made = prefix_of(node), list[Any]()
        condition = self._scalar(node, scope, made) if choices else None
        if choices is None or (choices and condition is None):
            return None
        bodies = [node.attrs[name] for name in ("then_branch", "else_branch")]
        other: dict[str, Any] = {}
        aside = self.cloner.nodes(bodies[1], other, scope, f"{prefix}else/")
        rights = {n: self.cloner.tensor(two, other, scope, prefix) for n, (_, two) in choices.items()}
        made += needed(aside, rights.values())
        own: dict[str, Any] = {}
        work = self.cloner.inlined(bodies[0], list(node.outputs), scope, Once(prefix), own)
        for name, (one, _) in choices.items():
            left = self.cloner.tensor(one, own, scope, prefix)
            chosen = gs.Variable(self.cloner.fresh(f"{prefix}chosen/{name}"), left.dtype, left.shape)
            at = next((k + 1 for k, n in enumerate(work) if any(t is left for t in n.outputs)), 0)
            for reader in work[at:]:
                for k, tensor in enumerate(reader.inputs):
                    if tensor is left:
                        reader.inputs[k] = chosen
            work[at:at] = choose(self.cloner.fresh, condition, left, rights[name], chosen, chosen.name)
        if choices:
            for tensor in (t for n in work for t in n.outputs):
                tensor.shape = None  # what the branch says holds for its own numbers
        return [*made, *work]

    def _scalar(self, node: gs.Node, scope: Scope, made: list[gs.Node]) -> Any:
        """The condition of an If with rank 0, written into `made` if need be; None if its rank is not known."""
        import onnx_graphsurgeon as gs

        condition = scope.tensor(node.inputs[0])
        if condition.shape is None or len(condition.shape) > 1:
            return None
        if len(condition.shape) == 1:
            flat = gs.Variable(self.cloner.fresh(f"{prefix_of(node)}condition"), np.dtype(np.bool_), [])
            made.append(squeeze_like("Squeeze", scope.graph, flat.name, condition, 0, flat))
            condition = flat
        return condition

    def _selected(self, node: gs.Node, branches: Sequence[gs.Graph], scope: Scope) -> list[gs.Node] | None:
        """Both branches, and a choice between their results."""
        import onnx_graphsurgeon as gs

        prefix = prefix_of(node)
        made: list[gs.Node] = []
        condition = self._scalar(node, scope, made)
        if condition is None:
            return None
        results: list[list[Any]] = []
        for branch, label in zip(branches, ("then", "else"), strict=True):
            # What the condition decides inside is decided now: in the graph around, it holds no more.
            self.visit(branch, Scope(branch, scope, {node.inputs[0].name: label == "then"}))
            targets = [
                gs.Variable(self.cloner.fresh(f"{prefix}{label}/{t.name}"), t.dtype, t.shape) if t.name
                else gs.Variable.empty()
                for t in node.outputs
            ]  # fmt: skip
            made += self.cloner.inlined(branch, targets, scope, Once(f"{prefix}{label}/"))
            results.append(targets)
        for output, left, right in zip(node.outputs, *results, strict=True):
            if output.name:
                take_type(output, left)
                made += choose(self.cloner.fresh, condition, left, right, output, f"{prefix}{output.name}")
        return made


def _bodies(node: gs.Node) -> Iterator[tuple[gs.Graph, dict[str, bool]]]:
    """The bodies of a node, each with what is known to hold in it."""
    import onnx_graphsurgeon as gs

    for name, value in node.attrs.items():
        if not isinstance(value, gs.Graph):
            continue
        known = node.op == "If" and bool(node.inputs[0].name)
        yield value, {node.inputs[0].name: name == "then_branch"} if known else {}
