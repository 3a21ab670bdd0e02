"""What the parser refuses of a model: it is asked, what it refuses is cut out, and it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.diagnose.asking import ROUNDS, Asking
from surgery.diagnose.classify import classify, compose
from surgery.diagnose.telling import Telling
from surgery.trt.types import ParserMessage

if TYPE_CHECKING:
    from surgery.trt.types import Outcome


class Parsing:
    """A search with the parser.

    Args:
        asking: What answers.
        telling: What takes down the problems.
    """

    def __init__(self, asking: Asking, telling: Telling) -> None:
        self.asking, self.telling = asking, telling
        self.work, self.result = telling.work, telling.result

    def run(self) -> bool:
        """Ask the parser until it takes what is left; False if it never did."""
        for _ in range(ROUNDS):
            if self.asking.left() < 1:
                self.telling.stop("the time was over before the parser had seen everything")
                return False
            outcome = self.asking.parse(self.work.model)
            if outcome.ok:
                return True
            before = (len(self.work.cut), len(self.work.skipped), len(self.work.model.graph.input))
            if outcome.aborted or outcome.timed_out or outcome.out_of_memory:
                if not self._died(outcome):
                    return False
            else:
                self._refused(outcome.errors, outcome.last_node)
            if before == (len(self.work.cut), len(self.work.skipped), len(self.work.model.graph.input)):
                if not self.result.problems:
                    self.telling.add(
                        "model", [compose(e) for e in outcome.errors], list(outcome.errors), None
                    )
                self.telling.stop("the parser still refuses what is left, and names no node in it")
                return False
        self.telling.stop(f"more than {ROUNDS} rounds")
        return False

    def _refused(self, errors: Sequence[ParserMessage], last: str | None) -> None:
        by_node: dict[str, list[ParserMessage]] = {}
        for error in errors:
            tokens = self.work.tokens(error.node_name)
            if tokens:
                by_node.setdefault(tokens[0], []).append(error)
            elif error.function == "importInput":
                self._inputs(error)
            elif "Failed to import initializer: " in error.description:
                self._constant(error)
            else:
                near = self.work.tokens(last or "")
                if error.code == "UNSUPPORTED_GRAPH" and near:
                    near = [self.work.owner(near[0])]
                if near and error.function not in ("parseGraph", "deserializeOnnxModel"):
                    by_node.setdefault(near[0], []).append(error)
                else:
                    self.telling.add("model", [compose(error)], [error], None)
        for token, messages in by_node.items():
            self.telling.add("parse", [compose(m) for m in messages], messages, token)
        self.work.drop(by_node)

    def _inputs(self, error: ParserMessage) -> None:
        from surgery.diagnose.workcopy import TYPES, usable

        for value in list(self.work.model.graph.input):
            kind = self.work.facts.main.kind(value.name)
            if kind.dtype in TYPES and usable(kind):
                continue
            found = classify([replace(error, description=f"input named {value.name}: {error.description}")],
                             model=self.work.facts)  # fmt: skip
            readers = self.work.drop_tensor(value.name)
            if not any(p.where == "input" and p.node == value.name for p in self.result.problems):
                self.telling.tensor("input", value.name, str(kind), error, found, readers)

    def _constant(self, error: ParserMessage) -> None:
        name = error.description.rsplit("Failed to import initializer: ", 1)[1].strip()
        kind = self.work.facts.main.kind(name)
        found = classify([error], model=self.work.facts)
        readers = self.work.drop_tensor(name)
        self.telling.tensor("constant", name, str(kind), error, found, readers)

    def _died(self, outcome: Outcome) -> bool:
        how = (
            "ran out of time"
            if outcome.timed_out
            else "used too much memory"
            if outcome.out_of_memory
            else "aborted"
        )
        tokens = self.work.tokens(outcome.last_node or "")
        if not tokens:
            self.telling.add("model", [f"the parser {how} and had announced no node"], [], None)
            self.telling.stop("the parser ended before it announced a node")
            return False
        token = tokens[0]
        confirmed = ""
        top = self.work.index(self.work.owner(token))
        if top is not None and self.asking.left() > 2 and not outcome.timed_out:
            alone = self.asking.parse(self.work.part(top, top + 1))
            same = alone.aborted or alone.out_of_memory
            confirmed = (
                "; it does so with this node alone, too" if same else "; with this node alone it does not"
            )
        text = f"the parser {how} at this node, the last that it announced{confirmed}"
        self.telling.add(
            "parse", [text], [text], token, located="the last node that the parser announced" + confirmed
        )
        self.work.drop([token])
        return True
