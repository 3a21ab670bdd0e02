"""What `surgery run` would do with a model: found by doing it, without writing anything.

`inspect` and `explain` tell what TensorRT refuses; what becomes of it is told by the run itself, so that the two
never say different things.
"""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surgery.errors import ConfigError
from surgery.graph.walk import all_nodes
from surgery.shape_text import range_text

if TYPE_CHECKING:
    from surgery.config import PipelineConfig
    from surgery.pipeline import Event
    from surgery.report import Failure, Report
    from surgery.targets import Target

Shapes = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
What = Literal["done", "taken", "left", "not reached"]

OVER = "out-of-time"
"""Code of the failure by which a trial ends itself."""

BUILD = 0.5
"""Share of a trial's time that the build may take; it is not begun where less is left."""

RULES = 4
"""Rules that are named with the number of their applications, and reasons why rules do not apply."""

ELSEWHERE = ("your rule ", "run the engine with")
"""Beginnings of warnings that are told elsewhere, or are about using the engine."""

PREPARED = {
    "resolve-structure": "its structure is known: it is written out without control flow, sequences and optionals",
    "resolve-image-loop": "the loop over the images of a batch is written out",
    "retype": "what it reads or makes is carried in a type that the target has",
    "write-out-plugin": "the plugin is written out as standard nodes",
    "successor-plugin": "another plugin or operator of the target takes its place",
    "inline-function": "the function is written out where it is called",
    "cut-input": "it is cut off at the front, as a model of its own",
}
"""What edits that are no rules do."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a run does about one node.

    Attributes:
        what: ``done``: it is replaced; ``taken``: it goes through as the run leaves it; ``left``: the run fails at
            it, or nothing is done about it; ``not reached``: the run ends before.
        text: The same in words.
        rules: The edits that replace it.
        at: Whether the run fails at this very node.
    """

    what: What
    text: str
    rules: tuple[str, ...] = ()
    at: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"what": self.what, "text": self.text, "rules": list(self.rules)}


@dataclass(frozen=True, slots=True)
class Trial:
    """A run that wrote nothing.

    Attributes:
        model: Path or name of the model, for commands.
        target: The target.
        pipeline: Name of the pipeline that was taken.
        shapes: Shapes that were given.
        last: The last stage that was to run: what comes after is not told.
        exit_code: Of the run; None if its time was over.
        failure: Why it failed.
        stages: Stages that ended well.
        edits: Name of a node to the edits that replace it, with what they made.
        misses: Name of a node to the rules that do not apply to it, and why.
        changes: Name of an input or output to what the run changes about it.
        counts: How often each edit was made.
        refused: Nodes that the target still refuses in the end.
        verified: How the graph was verified, or None.
        ranges: Shapes of the engine's inputs that have a profile, in words.
        warnings: What the run warned of.
        remains: Names of the nodes of the result; None if there is none.
        seconds: How long it took.
        plugin_paths: Folders with the user's plugins.
    """

    model: str
    target: Target
    pipeline: str
    shapes: Shapes | None
    last: str
    exit_code: int | None
    failure: Failure | None
    stages: tuple[str, ...]
    edits: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]
    misses: Mapping[str, tuple[tuple[str, str], ...]]
    changes: Mapping[str, str]
    counts: Mapping[str, int]
    refused: tuple[str, ...] = ()
    verified: str | None = None
    ranges: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remains: frozenset[str] | None = None
    seconds: float = 0.0
    plugin_paths: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What to type for the run."""
        return run_command(self.pipeline, self.model, self.target, self.shapes, self.plugin_paths)

    @property
    def fails(self) -> bool:
        """Whether the run failed (a run whose time was over did not)."""
        return self.exit_code not in (None, 0)

    def rules_of(self, name: str, path: Sequence[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
        """The edits that replace a node, by the node's name; nodes of bodies and functions get longer names."""
        return [e for n in _names(name, path, self.edits) for e in self.edits[n]]

    def fate(self, name: str, op: str | None = None, path: Sequence[str] = ()) -> Fate:
        """What the run does about a node, an input or a constant.

        Args:
            name: Its name.
            op: Its operator, or None for an input or a constant.
            path: The nodes whose bodies or functions it lies in.
        """
        edits = self.rules_of(name, path)
        rules = tuple(dict.fromkeys(r for r, _ in edits))
        if self.failure is not None and self._about(name, path, edits):
            return Fate("left", self._failed(op, rules), rules, at=True)
        if rules:
            return Fate("done", "; ".join(dict.fromkeys(words(r) for r in rules[:RULES])), rules)
        owner = next(
            (o for o in path if (quoted := re.search(r"'(.+)'", o)) and self.edits.get(quoted[1])), None
        )
        if owner is not None:
            return Fate("done", f"it is written out with {owner.rsplit(' ', 1)[0]}")
        if name in self.changes:
            return Fate("done", self.changes[name])
        refused = _names(name, path, self.refused)
        if "parse" in self.stages and not refused:
            if op is None and "retype" in self.counts:
                return Fate("done", words("retype"), ("retype",))
            return Fate("taken", self._as_it_is(name, op, path))
        missed = _names(name, path, self.misses)
        if missed:
            return Fate("left", self._why_not(missed[0]))
        if refused and not self.target.installed:
            return Fate("left", "the run leaves it, for it is refused by the table alone, for how it is used")
        if "rewrite" in self.stages:
            return Fate("left", f"no rule is for this {op}" if op else "nothing is done about it")
        if self.exit_code is None:
            return Fate("not reached", "the time was over before the run came to it")
        place = f" at {self.failure.node!r}" if self.failure is not None and self.failure.node else ""
        return Fate("not reached", f"the run fails{place} before it comes to this")

    def _about(self, name: str, path: Sequence[str], edits: Sequence[tuple[str, tuple[str, ...]]]) -> bool:
        """Whether the run failed at a node, or at what took its place."""
        if self.failure is None or self.exit_code is None:
            return False
        node = self.failure.node
        if not node:
            return f"put {name!r} " in self.failure.message  # an input or output, which is no node
        return bool(_names(name, path, [node])) or any(node in made for _, made in edits)

    def _as_it_is(self, name: str, op: str | None, path: Sequence[str]) -> str:
        if op is not None and self.remains is not None and not _names(name, path, self.remains):
            return "it is not there any more: folded, not needed, or merged with an equal node"
        if self.ranges and self.exit_code == 0 and not self.counts:
            return f"at the shapes that the run takes ({self._shapes})"
        return "it is not in the way once the model is prepared and its sizes are known"

    def _failed(self, op: str | None, rules: Sequence[str]) -> str:
        assert self.failure is not None
        if rules:
            return (
                f"rule {rules[-1]!r} replaces it, and the run fails at what it writes ({self.failure.code})"
            )
        refused = self.failure.code == "parser-refused"  # the same is true of all nodes that it refuses
        if self.failure.node in self.misses:
            why = self._why_not(self.failure.node or "")
            return why if refused else f"the run fails at it ({self.failure.code}); {why}"
        if refused:
            return f"no rule is for this {op}" if op else "nothing is done about it"
        return f"the run fails at it, as told above ({self.failure.code})"

    def _why_not(self, name: str) -> str:
        told = "; ".join(f"{rule}: {why}" for rule, why in self.misses[name][:RULES])
        more = len(self.misses[name]) - RULES
        return f"no rule applies ({told}{f'; and {more} more' if more > 0 else ''})"

    @property
    def verdict(self) -> str:
        """How the run ends, in words."""
        if self.exit_code is None:
            stage = f" in stage {self.failure.stage}" if self.failure and self.failure.stage else ""
            return f"not told to the end: the time was over{stage}; nothing had failed up to then"
        if self.failure is not None:
            place = f"in stage {self.failure.stage}" if self.failure.stage else "before its first stage"
            return f"fails {place} with exit code {self.exit_code} [{self.failure.code}]: {self.message}"
        if not self.target.installed:
            told = "ends well, with the prepared model and no engine"
            if self.refused:
                named = ", ".join(map(repr, self.refused[:RULES]))
                return f"ends with the prepared model; by its table {self.target.name} still refuses {named} in it"
            return told
        if self.last == "parse":
            return "gets as far as the parser, which takes the result; whether it builds is not tried here"
        told = "ends well: the engine builds" + (f", {self.verified}" if self.verified else "")
        return told + (f"; shapes {self._shapes}" if self.ranges else "")

    @property
    def _shapes(self) -> str:
        more = f" and {len(self.ranges) - RULES} more inputs" if self.ranges[RULES:] else ""
        return "; ".join(self.ranges[:RULES]) + more

    @property
    def message(self) -> str:
        """Why the run failed, without the model's name."""
        text = self.failure.message if self.failure is not None else ""
        return text.removeprefix(f"{Path(self.model).stem}: ")

    @property
    def told(self) -> str:
        """The rules and other edits, the most frequent first."""
        common = Counter(self.counts).most_common()
        more = f" and {len(common) - 6} more" if common[6:] else ""
        return ", ".join(f"{n} x {rule}" for rule, n in common[:6]) + more

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        failure = self.failure if self.exit_code is not None else None
        return {
            "command": self.command,
            "pipeline": self.pipeline,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "last_stage": self.last,
            "code": failure.code if failure else None,
            "node": failure.node if failure else None,
            "fix": failure.fix if failure else None,
            "edits": dict(self.counts),
            "refused": list(self.refused),
            "warnings": list(self.warnings),
        }


def _names(name: str, path: Sequence[str], known: Collection[str]) -> list[str]:
    """Those of some names that a node has; bodies and functions that are written out give their nodes longer ones."""
    if not path:
        return [name] if name in known else []
    longer = re.compile(rf"(?:.*/)?{re.escape(name)}(?:__?\d+)?(?:/\d+)?")
    return [n for n in known if n == name or longer.fullmatch(n)]


def words(rule: str) -> str:
    """What an edit does to a node, in words."""
    if rule in PREPARED:
        return f"{PREPARED[rule]} ({rule})"
    if rule not in _rules():
        return f"the step {rule!r} replaces it"
    return f"rule {rule!r} writes it in operators that the target takes"


@lru_cache(maxsize=1)
def _rules() -> frozenset[str]:
    from surgery.rules import shipped_rules

    return frozenset(r.name for r in shipped_rules())


def run_command(
    pipeline: str,
    model: str,
    target: Target,
    shapes: Shapes | None = None,
    plugin_paths: Sequence[str | Path] = (),
) -> str:
    """``surgery run`` as it is typed."""
    given = "".join(f" --plugin-path {shlex.quote(str(path))}" for path in plugin_paths)
    for name, ranges in (shapes or {}).items():
        given += f" --shape {shlex.quote(f'{name}={range_text(ranges)}')}"
    return f"surgery run {pipeline} {shlex.quote(model)} --target {target.name}{given}"


def attempt(
    model: str | Path | bytes,
    *,
    target: Target,
    pipeline: str,
    name: str,
    last: str,
    seconds: float,
    shapes: Shapes | None = None,
    workspace_mib: float | None = None,
    plugin_paths: Sequence[str | Path] = (),
) -> Trial:
    """Run a pipeline on a model as `surgery run auto` would, and write nothing.

    Args:
        model: Path of an ``.onnx`` file, or its bytes.
        target: The target.
        pipeline: The pipeline of the model's family; where it fails at a part of its own, rules alone follow.
        name: What the model is called in commands.
        last: The last stage that runs.
        seconds: Time that it may take; looked at between steps, and given to the builder and to runs in ONNX Runtime
            as their limit.
        shapes: Per input (minimum, optimum, maximum) shape; None derives them.
        workspace_mib: Workspace limit of the build in MiB.
        plugin_paths: Folders with the user's plugins.
    """
    from surgery import api
    from surgery.config import load_pipeline
    from surgery.graph.deadline import at_most
    from surgery.report import Failure, Report

    started = time.monotonic()

    def listen(event: Event) -> None:
        from surgery.pipeline import LogLine, StageStarted

        # Lines of TensorRT's log come while a job runs: its process could not be used again.
        if isinstance(event, LogLine):
            return
        builds = isinstance(event, StageStarted) and event.name == "build"
        if time.monotonic() - started > seconds * (1 - BUILD if builds else 1):
            raise ConfigError("the time of the trial was over", code=OVER)

    taken, report = pipeline, None
    for taken in dict.fromkeys((pipeline, "generic")):
        config = _limited(load_pipeline(taken), max(BUILD * seconds, 1.0), workspace_mib)
        try:
            with at_most(started + seconds - time.monotonic()):
                report = api.run(
                    config, model, target=target.name, shapes=shapes, stages=f"load..{last}", listener=listen,
                    plugin_paths=plugin_paths,
                )  # fmt: skip
        except Exception as error:  # what the parser says is worth telling whatever is wrong with the run
            text = f"a bug in surgery: {type(error).__name__}: {error}"
            fix = "report it, with the traceback that the command above leaves"
            report = Report(exit_code=70, failure=Failure(None, "bug", None, text, None, fix))
        if report.failure is None or report.failure.code not in api.PARTS:
            break
    assert report is not None
    trial = _read(report, name, target, taken, shapes, last, time.monotonic() - started)
    return replace(trial, plugin_paths=tuple(map(str, plugin_paths)))


def _limited(config: PipelineConfig, seconds: float, workspace_mib: float | None) -> PipelineConfig:
    from surgery.config import apply_overrides

    if not any(stage.name == "build" for stage in config.build_stages()):
        return config
    limits: dict[str, Any] = {"build.seconds": seconds}
    if workspace_mib is not None and workspace_mib >= 1:
        limits["build.workspace_mib"] = int(workspace_mib)
    return apply_overrides(config, limits)


def _read(
    report: Report, name: str, target: Target, pipeline: str, shapes: Shapes | None, last: str, seconds: float
) -> Trial:
    edits: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    counts: Counter[str] = Counter()
    for edit in report.edits:
        counts[edit.rule] += 1
        for node in edit.nodes_before:
            edits.setdefault(node, []).append((edit.rule, edit.nodes_after))
    misses: dict[str, list[tuple[str, str]]] = {}
    for node, _, rule, why in report.misses:
        if (rule, why) not in misses.setdefault(node, []):
            misses[node].append((rule, why))
    failure = report.failure
    over = failure is not None and failure.code in (OVER, "build-timeout", "run-without-end")
    ended = tuple(s.name for s in report.stages if not s.summary.startswith("failed: "))
    level = report.verification["graph"]
    verified = None
    if not str(level["status"]).startswith("not run"):
        verified = f"and the graph computes the same on {len(level['cases'])} inputs"
    return Trial(
        name,
        target,
        pipeline,
        shapes,
        last,
        None if over else report.exit_code,
        failure,
        ended,
        {n: tuple(e) for n, e in edits.items()},
        {n: tuple(m) for n, m in misses.items()},
        {c.name: c.what for c in report.io_changes},
        counts,
        _refused(report, target),
        verified,
        tuple(_range(p) for p in report.profiles),
        tuple(w for w in report.warnings if not w.startswith(ELSEWHERE)),
        frozenset(n.name for n in all_nodes(report.model.graph.node)) if report.model is not None else None,
        seconds,
    )


def _refused(report: Report, target: Target) -> tuple[str, ...]:
    """Nodes of the result that the target refuses, by its parser or, where it is not installed, by its tables."""
    names = [str(u["node"]) for u in report.unsupported["after"]]
    if not target.installed and report.model is not None:
        from surgery.diagnose.facts import Facts
        from surgery.diagnose.static import refusals

        names += [r.name for r in refusals(Facts(report.model), target)]
    return tuple(dict.fromkeys(names))


def _range(profile: Mapping[str, Any]) -> str:
    return f"{profile['input']} {range_text(profile[k] for k in ('min', 'opt', 'max'))}"
