"""Writing down what a target does not take: the class, the evidence, the remedies, in the words of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.diagnose.catalogue import catalogue
from surgery.diagnose.classify import Finding, classify, compose, finding_of
from surgery.diagnose.explanation import Explanation, Problem, Where
from surgery.diagnose.facts import Place
from surgery.diagnose.remedy import Remedy, asked_for, remedies, versions
from surgery.diagnose.trial import Fate
from surgery.trt.types import ParserMessage

if TYPE_CHECKING:
    from surgery.diagnose.workcopy import WorkCopy
    from surgery.targets import Target


class Telling:
    """Fills an explanation.

    Args:
        result: The explanation; problems and notes are added to it.
        work: The copy of the model that the target is asked about.
        target: The target.
    """

    def __init__(self, result: Explanation, work: WorkCopy, target: Target) -> None:
        self.result = result
        self.work = work
        self.target = target
        self._written: dict[tuple[str, str | None], Problem] = {}

    def stop(self, why: str) -> None:
        """Say why not everything was looked at."""
        self.result.complete = False
        self.result.notes.append(why)

    def ends_well(self) -> bool:
        """Whether `surgery run` builds the model: what could not be built of the cut one is of no interest then."""
        trial = self.result.trial
        return trial is not None and trial.exit_code == 0 and "build" in trial.stages

    def spelt(self, text: str) -> str:
        """A message with operators in the place of tokens, for signatures."""
        for token in self.work.tokens(text):
            text = text.replace(token, self.work.origins[token].op)
        return text

    def tensor(
        self,
        where: Where,
        name: str,
        kind: str,
        error: ParserMessage,
        found: list[Finding],
        readers: list[str],
    ) -> None:
        """Add what is said of an input or a constant.

        Args:
            where: Which of them it is.
            name: Its name.
            kind: Its dtype and shape.
            error: What the parser said.
            found: Classes that fit.
            readers: Tokens of the nodes that read it.
        """
        read = [f"{self.work.origins[t].op} {self.work.origins[t].name!r}" for t in readers]
        evidence = [f"{name!r} is {kind}"]
        if read:
            evidence.append(f"read by {', '.join(read[:5])}")
        place = self.work.place(readers[0]) if readers else None
        fate = self._fate(name)
        self.result.problems.append(
            Problem(
                where,
                (compose(error),),
                tuple(self._readable(f) for f in found),
                name,
                None,
                evidence=tuple(evidence),
                remedies=tuple(self._remedies(found, place, fate)),
                fate=fate,
            )
        )

    def add(
        self,
        where: Where,
        texts: Sequence[str],
        messages: Sequence[ParserMessage | str],
        token: str | None,
        *,
        located: str | None = None,
        failure: str | None = None,
    ) -> None:
        """Add what is said of a node, or of the model; of nodes of one function it is written down once.

        Args:
            where: Who says it.
            texts: What was said, for people.
            messages: The same as it was said, for the catalogue.
            token: Token of the node, or None.
            located: How the node was found where no message names it.
            failure: The class, where it is known.
        """
        work, read = self.work, self.work.readable
        origin = work.origins[token] if token is not None else None
        given = [m if isinstance(m, ParserMessage) else self.spelt(m) for m in messages]
        if token is not None and origin is not None:
            given = [
                replace(m, node_name=token, node_op=origin.op)
                if isinstance(m, ParserMessage) and not m.node_name
                else m
                for m in given
            ]
        found = self._known(failure) or classify(
            given, op=origin.op if origin else None, node=token, model=work.facts
        )
        place = work.place(token) if token is not None else None
        if origin is not None:
            first = (origin.written, found[0].id if found else None)
            known = self._written.get(first)
            if known is not None:
                if origin.path != known.path and origin.path not in known.also:
                    known.also.append(origin.path)
                return
        else:
            first = ("", None)
        told = tuple(dict.fromkeys(read(t) for t in texts))
        fate = self._fate(origin.name, origin.op, origin.path) if origin is not None else None
        problem = Problem(
            where,
            told,
            tuple(self._readable(f) for f in found),
            origin.name if origin else None,
            origin.op if origin else None,
            origin.domain if origin else "",
            origin.path if origin else (),
            evidence=tuple(read(t) for t in (found[0].evidence if found else ())),
            operands=self._operands(place) if place is not None else (),
            remedies=tuple(self._remedies(found, place, fate)),
            versions=versions(origin.op, origin.domain) if origin else {},
            located=located,
            fate=fate,
        )
        if origin is not None:
            self._written[first] = problem
        self.result.problems.append(problem)

    def by_table(self, tokens: Sequence[str]) -> None:
        """What the target's tables say about nodes that the parser was not asked about."""
        from surgery.diagnose.static import refusals

        wanted = set(tokens)
        for refusal in refusals(self.work.facts, self.target):
            place, reason = refusal.place, refusal.reason
            if place is None:
                if not self.target.installed:
                    text = f"the table of {self.target.table}: {reason}"
                    found, fate = self._known(refusal.failure), self._fate(refusal.name)
                    self.result.problems.append(
                        Problem(
                            "table", (text,), tuple(found), refusal.name,
                            remedies=tuple(self._remedies(found, None, fate)), fate=fate,
                        )
                    )  # fmt: skip
            elif place.node.name in wanted:
                token = place.node.name
                text = f"the table of {self.target.table}: {reason}"
                message: ParserMessage | str = text
                if refusal.kind == "operator":
                    said = f"{text}; No importer registered for op: {refusal.op}"
                    message = as_message(said, token, place.node.op_type)
                self.add("table", [text], [message], token, failure=refusal.failure)

    def failed_run(self) -> None:
        """Add why `surgery run` fails, where no problem says so already."""
        trial = self.result.trial
        failure = trial.failure if trial is not None else None
        if trial is None or failure is None or not trial.fails:
            return
        if any(p.fate is not None and p.fate.what == "left" for p in self.result.problems):
            return
        named = re.match(r"\[([\w-]+)\] ", failure.cause or "") or re.search(
            r" \[([\w-]+)\]$", failure.cause or ""
        )
        found = self._known(named[1] if named and named[1] in catalogue() else None)
        said = re.search(r"TensorRT said: (.+)", failure.cause or "", re.DOTALL)
        place = self.work.facts.find(token) if (token := self._token(failure.node)) else None
        fixes = [Remedy("run", failure.fix)] if failure.fix else []
        if failure.stage == "verify":
            fixes = [
                Remedy("run", "the numbers are in verification.graph of the run's report.json", trial.command)
            ]
        if failure.needs_constant:
            fixes = [asked_for(failure.needs_constant, trial.command)]
        fate = Fate("left", f"the run fails at it: {failure.code}")
        self.result.problems.append(
            Problem(
                "run",
                (trial.message, *([said[1]] if said else [])),
                tuple(found),
                failure.node,
                place.node.op_type if place is not None else None,
                place.node.domain if place is not None else "",
                evidence=(failure.cause,) if failure.cause and not found else (),
                operands=self._operands(place) if place is not None else (),
                remedies=tuple(fixes),
                fate=fate,
            )
        )

    def _readable(self, finding: Finding) -> Finding:
        read = self.work.readable
        return replace(
            finding,
            evidence=tuple(read(t) for t in finding.evidence),
            node=read(finding.node) if finding.node else None,
        )

    def _remedies(
        self, found: Sequence[Finding], place: Place | None, fate: Fate | None = None
    ) -> list[Remedy]:
        facts, trial = self.work.facts, self.result.trial
        return remedies(found, place, facts, self.target, self.result.model, trial=trial, fate=fate)

    def _fate(self, name: str, op: str | None = None, path: Sequence[str] = ()) -> Fate | None:
        return self.result.trial.fate(name, op, path) if self.result.trial is not None else None

    def _token(self, name: str | None) -> str | None:
        """The token of a node of the main graph, by its name."""
        return next((t for t, o in self.work.origins.items() if name and o.name == name and not o.path), None)

    def _operands(self, place: Place) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        read, facts = self.work.readable, self.work.facts
        return tuple(
            (read(name), str(place.scope.kind(name)), tuple(read(t) for t in facts.chain(place.scope, name)))
            for name in place.node.input
            if name
        )

    @staticmethod
    def _known(failure: str | None) -> list[Finding]:
        return [finding_of(catalogue()[failure])] if failure is not None else []


def as_message(text: str, token: str, op: str) -> ParserMessage:
    """What a table says, in the form of a message of the parser."""
    plugin = "Plugin not found, are the plugin name, version, and namespace correct?"
    return ParserMessage(
        "UNSUPPORTED_NODE", f"{text}; {plugin} UNSUPPORTED_NODE: false", token, op, -1, "table", "", 0
    )
