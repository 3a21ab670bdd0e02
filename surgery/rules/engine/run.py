"""Applying rules to a graph: an index by operator, a worklist, one proof per class, one door for mutation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from surgery.graph.collection import no_collection
from surgery.graph.editor import Editor
from surgery.graph.fold import lift_constants
from surgery.graph.infer import infer_types
from surgery.graph.matching import Scope
from surgery.report import Edit
from surgery.rules.engine.cuts import Cuts, NotDone, Written
from surgery.rules.engine.node_site import class_key, domain_of, note_host, proto_of, site_of, watched
from surgery.rules.engine.rule import Bounded, Lowering, NeedsConstant, NoMatch
from surgery.rules.engine.site import Site
from surgery.rules.engine.template import Template, Unproven, template, write

if TYPE_CHECKING:
    import onnx

    from surgery.rules.engine.pair import Pair, PatternRule

    Rule = Lowering | Pair | PatternRule

Takes = Callable[[Site, "onnx.NodeProto"], bool]
"""Whether the target takes a node as it stands."""

MAX_DEPTH = 16
"""Rules applied to what rules made, at most so often in a row."""

ALIKE = 16
"""Answers about nodes that differ in real numbers alone after which, if all agree, the next is taken as known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An operand that has to be constant: node, operator, operand's tensor name, and why."""

    node: str
    op: str
    tensor: str
    why: str


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that did not apply to a node; `refused` if the target does not take that node."""

    node: str
    op: str
    rule: str
    reason: str
    refused: bool = True


@dataclass
class Outcome:
    """What a run of the engine did.

    Attributes:
        edits: One entry per application.
        misses: Rules that did not apply, for nodes that no rule replaced.
        wanted: Operands without whose value no rule applies.
        bounded: Tensors that are now padded: name to (axis, name of the count).
        nearest: For rules for several nodes that were not applied: where the match that came furthest failed.
    """

    edits: list[Edit] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    bounded: dict[str, tuple[int, str]] = field(default_factory=dict)
    nearest: dict[str, str] = field(default_factory=dict)


class Engine:
    """Applies rules.

    Args:
        rules: Rules in order of preference.
        takes: Says whether the target takes a node; rules for refused nodes apply only where it does not.
        target: Name of the target.
        seed: Seed of the values that applications are proven with.
        feeds: Values for graph inputs by name that the proofs use (for samples of rules).
        domains: Versions of further operator sets.
        optional: Names of rules that only change the form, and apply only where they are asked for.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        takes: Takes,
        *,
        target: str = "",
        seed: int = 0,
        feeds: Mapping[str, Any] | None = None,
        domains: Mapping[str, int] | None = None,
        optional: Collection[str] = (),
    ) -> None:
        self.takes, self.target, self.seed, self.feeds = takes, target, seed, feeds
        self.domains = dict(domains or {})
        self.index: dict[tuple[str, str], list[Lowering]] = {}
        self.fallback: list[Lowering] = []
        suited = [r for r in rules if not r.targets or target.startswith(r.targets)]
        several = [
            r for r in suited if not isinstance(r, Lowering) and (not r.optional or r.name in optional)
        ]
        self.cuts = Cuts(several, target=target, seed=seed, feeds=feeds)
        for rule in suited:
            if not isinstance(rule, Lowering):
                continue
            if not rule.ops:
                self.fallback.append(rule)
            for op in rule.ops:
                self.index.setdefault((rule.domain, op), []).append(rule)
        self._applicable: dict[tuple[str, str], list[Lowering]] = {}
        self._plans: dict[Any, _Plan] = {}
        self._templates: dict[Any, Template | NoMatch | NeedsConstant | Unproven] = {}
        self._verdicts: dict[Any, bool] = {}
        self._answers: dict[Any, list[bool]] = {}
        self._reads: dict[Any, set[int]] = {}
        self._proven: set[int] = set()
        self._count = 0
        self._root: gs.Graph | None = None

    def run(
        self,
        graph: gs.Graph,
        provenance: dict[str, dict[str, str]],
        *,
        only: Collection[gs.Node] | None = None,
    ) -> Outcome:
        """Apply to the graph and the bodies inside it, in place, until nothing more applies.

        Args:
            graph: The graph.
            provenance: First output of each new node to the metadata stamped on it.
            only: Nodes to replace, with what the rules make of them; of the rules for several nodes, those that
                end there. None for all.
        """
        outcome = Outcome()
        self._root = graph
        if only is not None:
            self._some(graph, provenance, outcome, only)
            return outcome
        with no_collection():
            lift_constants(graph)
            infer_types(graph)
            self._graph(graph, graph, provenance, outcome, set())
        applied = {e.rule for e in outcome.edits}
        outcome.nearest = {n: str(m) for n, m in self.cuts.nearest.items() if n not in applied}
        return outcome

    def _some(
        self,
        graph: gs.Graph,
        provenance: dict[str, dict[str, str]],
        outcome: Outcome,
        only: Collection[gs.Node],
    ) -> None:
        host: set[str] = set()
        note_host(graph.nodes, host)
        outputs, opset, editor = {t.name for t in graph.outputs}, int(graph.opset), Editor(graph, provenance)
        with no_collection():
            self._several(opset, editor, outcome, outputs, host, [], only=only)
            there = {id(n) for n in graph.nodes}
            self._single([n for n in only if id(n) in there], opset, editor, outcome, outputs, host)

    def refuse(self, graph: gs.Graph, nodes: Sequence[Any]) -> None:
        """Take nodes, and all of their classes, for refused from now on."""
        wanted = {id(n) for n in nodes}
        for node, key in self._keys(graph):
            if id(node) in wanted:
                self._verdicts[key[0]] = False
                self._plans.clear()

    def _keys(self, graph: gs.Graph) -> list[tuple[Any, Any]]:
        outputs = {t.name for t in graph.outputs}
        host: set[str] = set()
        found = []
        for node in graph.nodes:
            note_host([node], host)
            found.append((node, class_key(node, int(graph.opset), outputs, host)))
        return found

    def refuses(self, graph: gs.Graph) -> Callable[[Any], bool]:
        """A function that says whether the target refuses a node of the graph as it stands."""
        lift_constants(graph)
        outputs = {t.name for t in graph.outputs}
        host: set[str] = set()
        note_host(graph.nodes, host)

        def refused(node: Any) -> bool:
            opset = int(graph.opset)
            key = class_key(node, opset, outputs, host)
            return not self._taken(lambda: site_of(node, opset, outputs, host, self.target), key, node)

        return refused

    def _graph(
        self,
        root: gs.Graph,
        graph: gs.Graph,
        provenance: dict[str, dict[str, str]],
        outcome: Outcome,
        host: set[str],
    ) -> None:
        editor = Editor(graph, provenance)
        lift_constants(graph)
        self.domains.update({d.domain: d.version for d in root.import_domains or () if d.domain})
        outputs = {t.name for t in graph.outputs}
        for node in graph.nodes:
            note_host([node], host)
            for body in _bodies(node):
                self._graph(root, body, provenance, outcome, set(host))
        opset = int(root.opset)
        left: list[NotDone] = []
        fresh: list[Any] | None = None
        while True:
            made = self._several(opset, editor, outcome, outputs, host, left)
            starts = list(graph.nodes) if fresh is None else made
            fresh = self._single(starts, opset, editor, outcome, outputs, host)
            if not fresh or not self.cuts.index:
                break
        outcome.misses.extend(
            Miss(m.node.name, m.node.op, m.rule.name, m.reason) for m in left if m.refused and m.node.outputs
        )

    def _several(
        self,
        opset: int,
        editor: Editor,
        outcome: Outcome,
        outputs: set[str],
        host: set[str],
        left: list[NotDone],
        only: Collection[gs.Node] | None = None,
    ) -> list[Any]:
        """Apply the rules for several nodes; the nodes they made."""
        starts = self.cuts.heads(editor.graph.nodes if only is None else list(only))
        if not starts:
            return []

        def refused(node: Any) -> bool:
            key = class_key(node, opset, outputs, host)
            return not self._taken(lambda: site_of(node, opset, outputs, host, self.target), key, node)

        scope = Scope(editor.graph, opset)
        done, left[:], expanded = self.cuts.run(starts, scope, editor, host, refused, self.domains)
        for entry in done:
            for name, output in zip(entry.outputs, entry.template.outputs, strict=False):
                if isinstance(output, Bounded) and name:
                    outcome.bounded[name] = (output.axis, entry.extra[output.count])
            names = tuple(n.name for n in entry.made)
            rule, found = entry.rule, entry.template
            outcome.edits.append(Edit(rule.name, rule.form, entry.before, names, entry.verified, found.error))
        if expanded:
            editor.put_in_place(expanded)
        if any(len(entry.outputs) > 1 for entry in done):
            editor.sort()
        made = {id(n) for entry in done for n in entry.made}
        return [n for n in editor.graph.nodes if id(n) in made]

    def _single(
        self,
        nodes: Sequence[Any],
        opset: int,
        editor: Editor,
        outcome: Outcome,
        outputs: set[str],
        host: set[str],
    ) -> list[Any]:
        """Apply the rules for one operator to nodes, and to what they make of them; all that was made."""
        queue: deque[tuple[Any, int]] = deque((n, 0) for n in nodes if self._rules(n))
        expanded: dict[int, list[Any]] = {}
        while queue:
            node, depth = queue.popleft()
            if depth > MAX_DEPTH:
                continue
            made = self._attempt(node, opset, editor, outcome, outputs, host)
            if made is None:
                continue
            expanded[id(node)] = made
            note_host(made, host)
            for new in reversed(made):
                if self._rules(new):
                    queue.appendleft((new, depth + 1))
        if expanded:
            editor.put_in_place(expanded)
        return [n for made in expanded.values() for n in made]

    def _rules(self, node: Any) -> list[Lowering]:
        place = (domain_of(node), node.op)
        found = self._applicable.get(place)
        if found is None:
            found = self._applicable[place] = [*self.index.get(place, ()), *self.fallback]
        return found

    def _attempt(
        self, node: Any, opset: int, editor: Editor, outcome: Outcome, outputs: set[str], host: set[str]
    ) -> list[Any] | None:
        key = class_key(node, opset, outputs, host)
        taken = None
        if any(r.when == "refused" for r in self._rules(node) if _reaches(r, opset)):
            taken = self._taken(lambda: site_of(node, opset, outputs, host, self.target), key, node)
        plan = self._plans.get((taken, self._read(key)))
        if plan is None:
            site = site_of(node, opset, outputs, host, self.target)
            plan = self._plan(site, key, node)
            self._plans[taken, self._read(key)] = plan
        if plan.template is not None and plan.rule is not None and plan.site is not None:
            if editor.graph is not self._root and any(isinstance(o, Bounded) for o in plan.template.outputs):
                why = "a body cannot hand a count out"
                outcome.misses.append(Miss(node.name, node.op, plan.rule.name, why))
                return None
            return self._apply(plan.rule, plan.template, plan.site, node, editor, outcome)
        if plan.wanted is not None:
            tensor = node.inputs[plan.wanted.operand].name
            outcome.wanted.append(Wanted(node.name, node.op, tensor, plan.wanted.why))
        else:
            outcome.misses.extend(
                Miss(node.name, node.op, name, why, plan.refused) for name, why in plan.misses
            )
        return None

    def _read(self, key: Any) -> Any:
        """The kind of a node with the weights that rules have looked at: others only pass through."""
        kind = key[0][0]
        found = self._reads.get(kind)
        return kind, tuple([w for w in key[1] if w[0] in found]) if found else ()

    def _plan(self, site: Site, key: Any, node: Any) -> _Plan:
        """What to do with all nodes of a class."""
        misses: list[tuple[str, str]] = []
        wanted: NeedsConstant | None = None
        left = False
        for rule in self._rules(node):
            if not _reaches(rule, site.opset):
                continue
            if rule.when == "refused" and self._taken(lambda: site, key, node):
                continue
            left = True
            found = self._template(rule, site, key, node)
            if isinstance(found, NeedsConstant):
                wanted = wanted or found
            elif isinstance(found, Exception):
                misses.append((rule.name, str(found)))
            else:
                return _Plan(site, rule, found)
        if not left:
            return TAKEN
        refused = bool(misses) and not self._taken(lambda: site, key, node)
        return _Plan(site, misses=tuple(misses), wanted=wanted, refused=refused)

    def _taken(self, site: Callable[[], Site], key: Any, node: Any) -> bool:
        if key[0] not in self._verdicts:
            answers = self._answers.setdefault(key[0][0], [])
            if len(answers) < ALIKE or len(set(answers)) > 1:
                found = site()
                answers.append(self.takes(found, proto_of(node, found)))
            self._verdicts[key[0]] = answers[-1]
        return self._verdicts[key[0]]

    def _template(self, rule: Lowering, site: Site, key: Any, node: Any) -> Any:
        """The replacement, or the exception that says why there is none."""
        place = (rule.name, key)
        if place not in self._templates:
            feeds = None
            if self.feeds:
                names = {
                    o.name: t.name for o, t in zip(site.inputs, node.inputs, strict=True) if o is not None
                }
                feeds = {n: self.feeds[t] for n, t in names.items() if t in self.feeds}
            reads: set[int] = set()
            try:
                nodes, results = write(rule, watched(site, reads))
                self._templates[place] = template(
                    Written(nodes, results, rule.since, rule.until),
                    site,
                    proto_of(node, site),
                    seed=self.seed,
                    feeds=feeds,
                    domains=self.domains,
                )
            except (NoMatch, NeedsConstant, Unproven) as error:
                self._templates[place] = error
            self._reads.setdefault(key[0][0], set()).update(reads)
        return self._templates[place]

    def _apply(
        self,
        rule: Lowering,
        found: Template,
        site: Site,
        node: Any,
        editor: Editor,
        outcome: Outcome,
    ) -> list[Any]:
        self._count += 1
        names = [t.name for t in node.outputs]
        made, extra = editor.replace_node(
            node,
            found.nodes,
            [o.name if o is not None else "" for o in site.inputs],
            [o.value if isinstance(o, Bounded) else o for o in found.outputs],
            found.types,
            rule=rule.name,
            prefix=f"surgery/{rule.name}/{self._count}",
            extra=[o.count for o in found.outputs if isinstance(o, Bounded)],
        )
        for name, output in zip(names, found.outputs, strict=False):
            if isinstance(output, Bounded):
                outcome.bounded[name] = (output.axis, extra[output.count])
        verified = "sampled" if id(found) in self._proven and found.verified == "passed" else found.verified
        self._proven.add(id(found))  # templates are kept, so no other gets its id
        before = node.name or next(filter(None, names), "")
        edit = Edit(rule.name, rule.form, (before,), tuple(n.name for n in made), verified, found.error)
        outcome.edits.append(edit)
        return made


def _reaches(rule: Lowering, opset: int) -> bool:
    return rule.since <= opset and (rule.until is None or opset <= rule.until)


def _bodies(node: Any) -> list[gs.Graph]:
    return [v for v in node.attrs.values() if isinstance(v, gs.Graph)] if node.attrs else []


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to do with a class of nodes: a rule and its replacement, or why there is none."""

    site: Site | None = None
    rule: Lowering | None = None
    template: Template | None = None
    misses: tuple[tuple[str, str], ...] = ()
    wanted: NeedsConstant | None = None
    refused: bool = False


TAKEN = _Plan()
"""No rule is for this class."""
