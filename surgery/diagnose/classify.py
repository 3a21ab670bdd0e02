"""From messages and a graph to classes of failures: what the text says, and what the graph confirms or denies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.diagnose.catalogue import Entry, Fix, catalogue
from surgery.diagnose.evidence import Case, about_nodes, checks_of, told
from surgery.diagnose.facts import Facts, Place
from surgery.trt.types import ParserMessage

if TYPE_CHECKING:
    import onnx

MATCHED, SEEN, CONTRADICTED, UNKNOWN = 2.0, 2.0, -4.0, -0.1
"""Weights: a signature found in the message; a condition seen in the graph; a condition contradicted by it; the
share of a condition's weight that is lost where nothing can be told."""

WEIGHTS = {"standard-operator": 0.5, "no-schema": 0.4, "inside-if": 2.5, "dead": 3.0, "in-function": 3.0}
"""Weights of tests that say less, or more, than a condition does as a rule."""

LONGEST = 80
"""Length of matched text from which on a signature counts as fully specific."""

DEFINE = "surgery new plugin NAME"
"""How the catalogue writes the command that defines an operator as a plugin."""

NODE = "<node>"
"""What stands for the node's name in a message while signatures are searched."""

_REFUSED = re.compile(r"UNSUPPORTED_NODE\w*: false\s*$")
_TENSOR = re.compile(
    r"(?:Failed to import initializer|importing initializer|Network input|shape input tensor|input tensor|"
    r"[Ii]nput named|for tensor|uses tensor|graph output):? '?([^\s',]+)'?"
)
_LAYER = re.compile(r"([^\s()\[\]{}]+?)(?:_\d+|_\w*Layer)?(?::| has no runners)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A class of failures that fits, and why.

    Attributes:
        id: The class.
        stage: The step at which it shows.
        cause: Why it happens, in plain words.
        fixes: Ways out, best first.
        versions: Versions of TensorRT that are concerned.
        look_at: What to look at by hand.
        evidence: What was seen in this graph.
        score: How well it fits; only the order means something.
        node: Name of the node, where one is found.
        op: Its operator.
    """

    id: str
    stage: str
    cause: str
    fixes: tuple[Fix, ...]
    versions: str
    look_at: str
    evidence: tuple[str, ...] = ()
    score: float = 0.0
    node: str | None = None
    op: str | None = None


def finding_of(entry: Entry) -> Finding:
    """A class that is known without a message."""
    return Finding(entry.id, entry.stage, entry.cause, entry.fixes, entry.versions, entry.look_at)


def classify(
    messages: Iterable[ParserMessage | str],
    *,
    op: str | None = None,
    node: str | None = None,
    model: onnx.ModelProto | Facts | None = None,
) -> list[Finding]:
    """Classes of failures that fit the messages, best first.

    Args:
        messages: What TensorRT said, errors of the parser or lines of a log, about one failure.
        op: Operator that they are about, where they do not tell.
        node: Name of the node, where they do not tell.
        model: The model, for evidence; names in it serve to find the node, never to choose a class.
    """
    facts = model if isinstance(model, Facts) or model is None else Facts(model)
    best: dict[str, Finding] = {}
    for message in messages:
        case = _case(message, op, node, facts)
        for entry in catalogue().values():
            found = _score(entry, case)
            if found is not None and (entry.id not in best or found.score > best[entry.id].score):
                best[entry.id] = found
    order = {name: i for i, name in enumerate(catalogue())}
    return sorted(best.values(), key=lambda f: (-f.score, order[f.id]))


def compose(message: ParserMessage) -> str:
    """A parser's message as one text: ``In node N with name: X and operator: OP (function): CODE: text``."""
    return (
        f"In node {message.node_index} with name: {message.node_name} and operator: {message.node_op} "
        f"({message.function}): {message.code}: {message.description}"
    )


def _case(message: ParserMessage | str, op: str | None, node: str | None, facts: Facts | None) -> Case:
    stack: tuple[str, ...] = ()
    if isinstance(message, ParserMessage):
        name, op, stack = message.node_name or node, message.node_op or op, message.local_functions
        place = facts.find(name or "", op, message.node_index) if facts is not None and (name or op) else None
        masked = message.description
        if message.node_name:
            named = re.escape(message.node_name)
            masked = re.sub(rf"(?<=Invalid Node - ){named}|(?<![\w.]){named}(?=:)", NODE, masked)
        text = (
            f"In node {message.node_index} with name: {NODE} and operator: {message.node_op} "
            f"({message.function}): {message.code}: {masked}"
        )
        tensor = _TENSOR.search(message.description)
    else:
        text, place = message, None
        if facts is not None:
            place = facts.find(node, op) if node else mentioned(message, facts)
        tensor = _TENSOR.search(message)
        if place is not None and place.node.name:
            named = re.escape(place.node.name)
            text = re.sub(
                rf"(?<![\w.]){named}(?=(?:_\d+|_\w*Layer)?(?::| has no runners))", place.node.op_type, text
            )
        elif facts is None and op is None:
            op = operator_in(message)
    if place is not None:
        op = place.node.op_type
    if op and f"Op type {op} is not supported in TensorRT-RTX" in text:
        # 1.6 asks for importer and plugin at once.
        text += " Plugin not found, are the plugin name, version, and namespace correct?"
    if op and "Plugin not found" in text:
        text += (
            f" No importer registered for op: {op}"  # what older parsers say before they look for a plugin
        )
    return Case(
        text, op, place.node.domain if place is not None else None, place, tensor.group(1) if tensor else None,
        facts, stack,
    )  # fmt: skip


def operator_in(text: str) -> str | None:
    """The operator that a message of any version names, or None."""
    for pattern in (
        r"and operator: (\w+)",
        r"importer registered for op: (\w+)",
        r"(?:In function|\()(?:check|import)(\w+)",
        r"node number \d+ \[(\w+)",
        r"node of type:? (\w+)",
        r"Op type (\w+) is not supported",
    ):
        found = re.search(pattern, text)
        if found and found.group(1) not in ("FallbackPluginImporter", "Input", "Inputs", "Initializers"):
            return found.group(1)
    return None


def mentioned(text: str, facts: Facts) -> Place | None:
    """The node whose layer a message of the builder names, or None."""
    for found in _LAYER.finditer(text):
        for name in (found.group(1), found.group(0).rstrip(":").removesuffix(" has no runners")):
            place = facts.find(name)
            if place is not None:
                return place
    return None


def _score(entry: Entry, case: Case) -> Finding | None:
    matches = [m for s in entry.signatures if (m := s.search(case.text))]
    if not matches:
        return None
    length = max(len(m.group(0)) for m in matches)
    score = MATCHED + min(length, LONGEST) / LONGEST
    place, seen, total = case.place, [], 0.0
    checks = checks_of(entry)
    weights = [SEEN] * len(checks)
    if entry.evidence.test is not None:
        weights[-1] = WEIGHTS.get(entry.evidence.test, SEEN)
    if checks and case.facts is not None and place is None and case.op is None and about_nodes(entry):
        # The message names no node: one node of the graph has to fulfil all conditions.
        for candidate in case.facts.places:
            answers = told(checks, case, candidate)
            if answers and all(known is True for known, _ in answers):
                place, seen = candidate, [text for _, text in answers if text]
                total = sum(weights)
                break
        else:
            total = CONTRADICTED
    else:
        for weight, (known, text) in zip(weights, told(checks, case, place), strict=True):
            total += weight if known else UNKNOWN * weight if known is None else CONTRADICTED
            if known and text:
                seen.append(text)
    score += total
    if score <= 0:
        return None
    op = place.node.op_type if place is not None else case.op
    fixes = _fixes(entry, op, place.node.domain if place is not None else case.domain)
    return Finding(
        entry.id, entry.stage, entry.cause, fixes, entry.versions, entry.look_at, tuple(seen), round(score, 3),
        place.node.name or None if place is not None else None, op,
    )  # fmt: skip


def _fixes(entry: Entry, op: str | None, domain: str | None) -> tuple[Fix, ...]:
    """The ways out, with the operator's name in the command that defines it as a plugin, where that can be."""
    if not any(DEFINE in f.text for f in entry.fixes) or op is None:
        return entry.fixes
    from surgery.plugins.adopt import can_be_plugin
    from surgery.plugins.skeleton import NAME, defined_text, is_defined

    others = tuple(f for f in entry.fixes if DEFINE not in f.text)
    if is_defined(op):
        return (Fix("plugin", defined_text(op)), *others)
    if can_be_plugin(op, domain or "") and NAME.fullmatch(op):
        return tuple(Fix(f.kind, re.sub(r"\bNAME\b", op, f.text)) for f in entry.fixes)
    return others
