"""Logs of trtexec, Polygraphy, ONNX Runtime and mmdeploy: their errors as findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.diagnose.classify import Finding, classify, operator_in
from surgery.diagnose.facts import Facts
from surgery.diagnose.grouping import about_machine

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"^(?:\[?\d[\d/:.,T \-]*\]?\s*)*"
    r"(?:mmdeploy\s*-\s*|root\s*-\s*|[\w./]+\.py:\d+\s*-?\s*)?"
    r"(?:\[?(?P<level>[EWIVX]|ERROR|WARNING|INFO|VERBOSE|error|warning|info|critical|CRITICAL|!)(?::onnxruntime[^\]]*)?\]"
    r"|(?P<word>ERROR|WARNING|INFO|VERBOSE)\s*[:\-])?\s*"
    r"(?:\[(?:TRT|TensorRT|trt)\]\s*(?:(?P<trt>ERROR|WARNING|INFO)\s*:)?\s*|(?:TensorRT)\s*[:\-]\s*)*"
)
_BLOCK = re.compile(r"While parsing node number (\d+) \[(\w+)(?: -> \"?([^\"\]]*)\"?)?\]")
_FUNCTION = re.compile(r"^(?:ERROR: )?(?:[\w./]+:\d+ )?In function (\w+):\s*$")
_CODE = re.compile(r"^\[\d+\] ")
_FAILURE = re.compile(
    r"Error Code \d+|[Aa]ssertion .*failed|Assertion failed|UNSUPPORTED_NODE|INVALID_NODE|INVALID_GRAPH|"
    r"No importer registered|Could not find any implementation|has no runners|\[ONNXRuntimeError\]|"
    r"not found in plugin registry|could not find plugin|Plugin not found|Unsupported ONNX data type|Failed to \w+|"
    r"out of memory|In node -?\d+ "
)
_NODE = (
    re.compile(r"In node -?\d+ with name: (\S+) and operator"),
    re.compile(r"Invalid Node - (\S+)"),
    re.compile(r"[Nn]ode name: (\S+)"),
    re.compile(r"Node ?\((\S+?)\)"),
)
_NOISE = re.compile(
    r"(Begin|End) node|Network must have at least one output|Could not parse ONNX correctly|failed\. exit|"
    r"Failed to (parse onnx|create engine|parse ONNX)|Parsing model failed|Engine set up failed|Engine could not be"
)
WARNINGS = frozenset({"W", "WARNING", "warning"})
ERRORS = frozenset({"E", "ERROR", "error", "critical", "CRITICAL", "!"})


@dataclass(slots=True)
class LogProblem:
    """One failure that a log tells of.

    Attributes:
        line: Number of its first line, from 1.
        text: What was said, without time and level.
        findings: Classes that fit, best first; empty if none is known.
        node: Name of the node, if it is named.
        op: Its operator, if it is named.
        warning: Only a warning.
        lines: Further lines that say the same.
    """

    line: int
    text: str
    findings: tuple[Finding, ...]
    node: str | None = None
    op: str | None = None
    warning: bool = False
    lines: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        first = self.findings[0] if self.findings else None
        return {
            "line": self.line,
            "warning": self.warning,
            "lines": self.lines,
            "node": self.node,
            "op": self.op,
            "message": self.text,
            "class": first.id if first else None,
            "classes": [{"id": f.id, "score": f.score} for f in self.findings],
            "cause": first.cause if first else None,
            "evidence": list(first.evidence) if first else [],
            "fixes": [{"kind": f.kind, "text": f.text} for f in (first.fixes if first else ())],
            "versions": first.versions if first else None,
        }


@dataclass(slots=True)
class _Entry:
    line: int
    level: str | None
    text: str


def read_log(text: str, facts: Facts | None = None) -> list[LogProblem]:
    """Failures that a log tells of, in order, warnings last; what says the same about the same node is told once.

    Args:
        text: The log.
        facts: The model that it is about, for evidence.
    """
    entries = _joined(_entries(text))
    problems: dict[tuple[str, str | None, str | None], LogProblem] = {}
    for entry in entries:
        findings = _findings(entry, facts)
        if not findings and (entry.level not in ERRORS or _NOISE.search(entry.text)):
            continue
        node, op = node_in(entry.text), operator_in(entry.text)
        if findings and op is None:
            op = findings[0].op
        if findings and node is None:
            node = findings[0].node
        key = (findings[0].id if findings else entry.text, node, op)
        known = problems.get(key)
        if known is None:
            problems[key] = LogProblem(
                entry.line, entry.text, tuple(findings), node, op, entry.level in WARNINGS
            )
        else:
            known.lines.append(entry.line)
    return sorted(_without_echoes(list(problems.values())), key=lambda p: p.warning)


def node_in(text: str) -> str | None:
    """The node that a line names, or None."""
    for pattern in _NODE:
        found = pattern.search(text)
        if found and found.group(1) not in ("and", ""):
            return found.group(1).rstrip(":,.")
    return None


def _entries(text: str) -> list[_Entry]:
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COLOUR.sub("", raw).rstrip()
        head = _PREFIX.match(line)
        level = next((g for g in head.groups() if g), None) if head else None
        body = line[head.end() :] if head else line
        if body.strip():
            found.append(_Entry(number, level, body.strip()))
    return found


def _joined(entries: Sequence[_Entry]) -> list[_Entry]:
    """Lines that belong together as one: what node is parsed, which function fails, what it says."""
    result: list[_Entry] = []
    block: tuple[str, str, str] | None = None
    name: str | None = None
    in_node = False
    i = 0
    while i < len(entries):
        entry = entries[i]
        i += 1
        started = _BLOCK.search(entry.text)
        if started:
            block, name = (started.group(1), started.group(2), started.group(3) or ""), None
            continue
        if "--- Begin node ---" in entry.text:
            in_node = True
            continue
        if "--- End node ---" in entry.text:
            in_node = False
            continue
        if in_node:
            named = re.match(r'name: "(.*)"', entry.text)
            name = named.group(1) if named else name
            continue
        function = _FUNCTION.search(re.sub(r"^[\w./]+:\d+: ", "", entry.text))
        if function:
            said: list[str] = []
            while i < len(entries) and len(said) < 4 and _continues(entries[i], said, entry):
                said.append(_CODE.sub("", entries[i].text))
                i += 1
            if not said:
                continue
            index, op, _ = block or ("-1", "", "")
            text = (
                f"In node {index} with name: {name or ''} and operator: {op} ({function.group(1)}): "
                f"UNSUPPORTED_NODE: {' '.join([s for s in said if not about_machine(s)] or said)}"
            )
            result.append(_Entry(entry.line, "E", text))
            block = None
            continue
        result.append(entry)
    return result


def _continues(entry: _Entry, said: Sequence[str], first: _Entry) -> bool:
    text = entry.text
    if not said:
        return True
    if first.level is not None and entry.level is None and not (_CODE.match(text) or "In function" in text):
        return True  # where messages begin with a level, a line without one goes on
    return not (_BLOCK.search(text) or _FAILURE.search(text) or "In function" in text or _CODE.match(text))


def _findings(entry: _Entry, facts: Facts | None) -> list[Finding]:
    bad = entry.level in ERRORS or _FAILURE.search(entry.text)
    if not bad and entry.level not in WARNINGS:
        return []
    return classify([entry.text], op=operator_in(entry.text), node=node_in(entry.text), model=facts)


def _without_echoes(problems: list[LogProblem]) -> list[LogProblem]:
    """Without what only follows from another failure in the same log."""
    causes = [p for p in problems if p.findings and p.findings[0].id not in ("no-outputs", "file-truncated")]
    if causes:
        problems = [
            p
            for p in problems
            if (p.findings and p.findings[0].id != "no-outputs")
            or (not p.findings and not about_machine(p.text))
        ]
    named = {(p.findings[0].id, p.op) for p in problems if p.findings and p.node}
    told = [p.text for p in problems if p.node]
    return [
        p
        for p in problems
        if p.node
        or not p.findings
        or ((p.findings[0].id, p.op) not in named and not any(p.text in t for t in told))
    ]
