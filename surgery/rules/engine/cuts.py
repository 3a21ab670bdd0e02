"""Applying rules for several nodes: outermost cuts first, one proof per class of identical ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.graph.matching import Mismatch, Scope
from surgery.rules.engine.cut_site import Cut
from surgery.rules.engine.rule import NeedsConstant, NoMatch
from surgery.rules.engine.template import Template, Unproven, template, write

if TYPE_CHECKING:
    from surgery.graph.body import Body
    from surgery.graph.editor import Editor
    from surgery.rules.engine.pair import Pair, PatternRule

    CutRule = Pair | PatternRule

MAX_DEPTH = 16
"""Rules applied to what rules made, at most so often in a row."""

FIRST_NAMES = 8
"""Nodes that provenance names, of those that were replaced."""


@dataclass(frozen=True, slots=True)
class Done:
    """One application: the rule, what it replaced, what it made, and how that was proven."""

    rule: CutRule
    before: tuple[str, ...]
    made: tuple[Any, ...]
    outputs: tuple[str, ...]
    template: Template
    extra: Mapping[str, str]
    verified: str


@dataclass(frozen=True, slots=True)
class NotDone:
    """A cut that was found and not replaced."""

    rule: CutRule
    node: Any
    reason: str
    refused: bool


@dataclass(frozen=True)
class Written:
    """A replacement that is already written, as a rule for the same opsets."""

    nodes: Sequence[Any]
    outputs: Sequence[Any]
    since: int
    until: int | None

    def build(self, site: Any, body: Body) -> Sequence[Any]:
        """Nothing is left to do."""
        body.nodes.extend(self.nodes)
        return self.outputs


class Cuts:
    """Rules for several nodes, found by the operator of the node that makes their first output.

    Args:
        rules: The rules, in order of preference.
        target: Name of the target.
        seed: Seed of the values that applications are proven with.
        feeds: Values that proofs use, by name of a tensor of the graph.

    Attributes:
        nearest: For each rule, the failure to match that came furthest.
    """

    def __init__(
        self, rules: Iterable[CutRule], *, target: str, seed: int, feeds: Mapping[str, Any] | None
    ) -> None:
        self.target, self.seed, self.feeds = target, seed, feeds
        self.index: dict[tuple[str, str], list[CutRule]] = {}
        self._reach: dict[str, int] = {}
        self.nearest: dict[str, Mismatch] = {}
        self._count = 0
        self._reads: dict[Any, tuple[str, ...]] = {}
        self._templates: dict[Any, Template | Exception] = {}
        self._proven: set[Any] = set()
        self._lineage: dict[int, tuple[Any, frozenset[str]]] = {}
        for rule in rules:
            for op in rule.pattern.ops:
                self._reach[op] = max(self._reach.get(op, 0), rule.pattern.depth)
            for head in sorted(rule.pattern.heads):
                self.index.setdefault(head, []).append(rule)

    def heads(self, nodes: Iterable[Any]) -> list[Any]:
        """The nodes at which a rule may match."""
        index = self.index
        return [n for n in nodes if ((n.domain or "").replace("ai.onnx", ""), n.op) in index]

    def run(
        self,
        starts: Sequence[Any],
        scope: Scope,
        editor: Editor,
        host: set[str],
        refused: Callable[[Any], bool],
        domains: Mapping[str, int],
    ) -> tuple[list[Done], list[NotDone], dict[int, list[Any]]]:
        """Replace cuts until no rule matches.

        Args:
            starts: Nodes to match at, in topological order; matching goes from the last to the first, so
                that the larger of two cuts, one inside the other, is found first.
            scope: The graph.
            editor: Its editor.
            host: Names of tensors that depend on shapes alone.
            refused: Whether the target refuses a node as it stands.
            domains: Versions of further operator sets.

        Returns:
            What was done, what was found and not done, and the new nodes by the id of the node whose place
            they take.
        """
        done: list[Done] = []
        not_done: dict[tuple[str, int], NotDone] = {}
        expanded: dict[int, list[Any]] = {}
        depth: dict[int, int] = {}
        kept: dict[int, Any] = {}
        stack = list(starts)
        while stack:
            node = stack.pop()
            level = depth.get(id(node), 0)
            if not scope.alive(node) or level > MAX_DEPTH:
                continue
            makers = [_maker(t) for t in node.inputs]
            for rule in self._rules(node, scope.opset):
                if not rule.pattern.may_match(node.op, makers):
                    continue
                found = self._attempt(rule, node, scope, editor, host, refused, domains)
                if found is None:
                    continue
                if isinstance(found, NotDone):
                    not_done[rule.name, id(node)] = found
                    continue
                entry, cut = found
                self._place(entry, cut, scope, expanded)
                self._descend(entry, cut)
                depth.update((id(n), level + 1) for n in entry.made)
                done.append(entry)
                kept.update((id(n), n) for n in cut.match.kept)
                stack += self.heads([*self._around(entry, cut, scope), *entry.made])
                break
        _drop_unused(list(kept.values()), scope, expanded)
        return done, [n for n in not_done.values() if scope.alive(n.node)], expanded

    def _rules(self, node: Any, opset: int) -> list[CutRule]:
        found = self.index.get(((node.domain or "").replace("ai.onnx", ""), node.op), ())
        return [r for r in found if r.since <= opset and (r.until is None or opset <= r.until)]

    def _attempt(
        self,
        rule: CutRule,
        node: Any,
        scope: Scope,
        editor: Editor,
        host: set[str],
        refused: Callable[[Any], bool],
        domains: Mapping[str, int],
    ) -> tuple[Done, Cut] | NotDone | None:
        match = rule.pattern.match(node, scope)
        if isinstance(match, Mismatch):
            nearest = self.nearest.get(rule.name)
            if nearest is None or match.depth > nearest.depth:
                self.nearest[rule.name] = match
            return None
        if rule.when == "refused" and not any(refused(n) for n in match.nodes):
            return None
        if all(rule.name in self._made_by(n) for n in match.nodes):
            return None  # a rule that finds what it wrote itself would never come to an end
        try:
            cut = Cut(match, scope, host, self.target)
        except NoMatch as error:
            return NotDone(rule, node, str(error), rule.when == "refused")
        key, found = self._template(rule, cut, domains)
        if isinstance(found, Exception):
            if isinstance(found, NoMatch):
                self.nearest[rule.name] = Mismatch(node, "{}", (str(found),), len(match.nodes))
            refusal = rule.when == "refused" or isinstance(found, Unproven)
            return NotDone(rule, node, str(found), refusal)
        return self._apply(rule, found, cut, editor, key), cut

    def _template(self, rule: CutRule, cut: Cut, domains: Mapping[str, int]) -> tuple[Any, Any]:
        """The replacement of a cut, or the exception that says why there is none; written once per class."""
        base = (rule.name, cut.key)
        names = self._reads.get(base, ())
        key = (rule.name, cut.key_with(names))
        if key not in self._templates:
            site = cut.site()
            made: Template | Exception
            try:
                written = Written(*write(rule, site), rule.since, rule.until)
                feeds = {**cut.feeds(), **self._given(cut)}
                made = template(
                    written, cut.closed(site), cut.protos(), seed=self.seed, feeds=feeds, domains=domains
                )
            except (NoMatch, NeedsConstant, Unproven) as error:
                made = error
            self._reads[base] = tuple(sorted({*names, *(cut.reads & set(cut.weights))}))
            key = (rule.name, cut.key_with(self._reads[base]))
            self._templates[key] = made
        return key, self._templates[key]

    def _given(self, cut: Cut) -> dict[str, Any]:
        given = self.feeds or {}
        return {n: given[t.name] for n, t in cut.inputs.items() if t.name in given}

    def _apply(self, rule: CutRule, found: Template, cut: Cut, editor: Editor, key: Any) -> Done:
        from surgery.rules.engine.rule import Bounded

        self._count += 1
        match = cut.match
        before = tuple(n.name for n in match.nodes)
        origin = ", ".join(before[:FIRST_NAMES])
        if len(before) > FIRST_NAMES:
            origin += f" and {len(before) - FIRST_NAMES} more"
        for node in match.nodes:
            for tensor in node.outputs:
                list.clear(tensor.inputs)
            list.clear(node.outputs)
        pairs = [(t, o) for t, o in zip(match.outputs, found.outputs, strict=False) if t is not None]
        bounded = [o for _, o in pairs if isinstance(o, Bounded)]
        made, extra = editor.write(
            found.nodes,
            dict(cut.inputs),
            [t for t, _ in pairs],
            [o.value if isinstance(o, Bounded) else o for _, o in pairs],
            found.types,
            rule=rule.name,
            prefix=f"surgery/{rule.name}/{self._count}",
            origin=origin,
            extra=[o.count for o in bounded],
        )
        verified = "sampled" if key in self._proven and found.verified == "passed" else found.verified
        self._proven.add(key)
        names = tuple(t.name if t is not None else "" for t in match.outputs)
        return Done(rule, before, tuple(made), names, found, extra, verified)

    @staticmethod
    def _place(entry: Done, cut: Cut, scope: Scope, expanded: dict[int, list[Any]]) -> None:
        gone = cut.match.nodes
        last = scope.last(gone)
        for node in gone:
            expanded[id(node)] = list(entry.made) if node is last else []
        outputs = [t for t in cut.match.outputs if t is not None]
        scope.replace(gone, entry.made, loose=len(outputs) > 1)

    def _made_by(self, node: Any) -> frozenset[str]:
        """Rules that a node goes back to, one after the other."""
        return self._lineage.get(id(node), (None, frozenset()))[1]

    def _descend(self, entry: Done, cut: Cut) -> None:
        common = frozenset.intersection(*(self._made_by(n) for n in cut.match.nodes)) | {entry.rule.name}
        for node in entry.made:
            self._lineage[id(node)] = (node, common)  # kept, so that no other node gets its id

    def _around(self, entry: Done, cut: Cut, scope: Scope) -> list[Any]:
        """Nodes after a cut at which a pattern that takes in what was made may match now."""
        found: dict[int, Any] = {}
        level = [t for t in cut.match.outputs if t is not None]
        reach = max((self._reach.get(n.op, 0) for n in entry.made), default=0)
        for _ in range(reach - 1):
            users = {id(u): u for t in level for u in scope.users(t) if id(u) not in found}
            found.update(users)
            level = [t for u in users.values() for t in u.outputs]
        return [n for n in found.values() if scope.alive(n)]


def _maker(tensor: Any) -> str | None:
    return tensor.inputs[0].op if tensor.inputs else None


def _drop_unused(nodes: list[Any], scope: Scope, expanded: dict[int, list[Any]]) -> None:
    """Take out nodes that matches left in place and that nothing reads any more."""
    while True:
        unused = [n for n in nodes if scope.alive(n) and not any(scope.used(t) for t in n.outputs)]
        if not unused:
            return
        for node in unused:
            for tensor in node.outputs:
                list.clear(tensor.inputs)
            list.clear(node.outputs)
            expanded[id(node)] = []
            scope.replace([node], [])
