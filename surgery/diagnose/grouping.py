"""Telling the same once: problems that differ in the node alone, and messages without what is about the machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.diagnose.explanation import Problem

STATES = {"done": "resolved", "taken": "goes through", "left": "not resolved", "not reached": "not told"}
"""What becomes of a problem in a run, in a word or two."""

WRONG = "plugin"
"""Kind of the group of a plugin node that its definition refuses, whatever the target has."""

LONGEST = 600
"""Characters of a message that are shown."""

_MACHINE = re.compile(
    r"cuda(?:Error|Get|Set|Malloc|Free|Stream|Runtime|Driver)|CUDA (?:initialization|driver|error|runtime|lazy)|"
    r"no CUDA-capable device|insufficient for CUDA runtime|Unable to determine GPU|(?:find|load) CUDA|"
    r"CUDA-capable|GPU memory usage|nvidia-smi|libcuda",
    re.IGNORECASE,
)
"""What TensorRT says of driver and GPU. It parses and builds without either, so that it is never why a node fails."""

_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")


_PLACE = re.compile(r"^In node -?\d+ with name:.*? and operator: ?\S* ?(?=\()")
_SOURCE = re.compile(r"\.? ?\bIn [\w:~<>() ]{1,60} at \S+\.(?:cpp|h|cu|hpp):\d+")


def about_machine(line: str) -> bool:
    """Whether a line of a message is about the driver or the GPU, not about the model."""
    return _MACHINE.search(line) is not None


def about_model(text: str) -> str:
    """The lines of a message that are not about the machine; all of them where nothing else is said."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join([line for line in lines if not about_machine(line)] or lines)


def without_machine(text: str) -> str:
    """The same in one line."""
    return " ".join(about_model(text).split())


def said(text: str) -> str:
    """A message as it is shown beside its node: no machine, no node once more, no places in TensorRT's sources."""
    return _SOURCE.sub("", _PLACE.sub("", without_machine(text)))


def groups(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Problems that differ in the node and the numbers alone, together; in the order of their first."""
    found: dict[Any, list[Problem]] = {}
    for number, problem in enumerate(problems):
        found.setdefault(_alike(problem) or number, []).append(problem)
    return list(found.values())


def _alike(problem: Problem) -> Any:
    """What problems of one group share; None for one that is told by itself."""
    if problem.node is None or problem.op is None or problem.located or problem.where in ("file", "run"):
        return None
    told = said(problem.messages[0]) if problem.messages else ""
    fate = problem.fate
    return (
        problem.where, problem.op, problem.domain, problem.id,
        _NAMES.sub("#", told.replace(problem.node, "#")),
        (fate.what, _NAMES.sub("#", fate.text.replace(problem.node, "#"))) if fate is not None else None,
        tuple(r.text for r in problem.remedies[:1]),
    )  # fmt: skip
