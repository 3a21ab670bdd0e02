"""What the builder refuses of a model that the parser takes: found by its messages, or by building parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.diagnose.asking import ROUNDS, Asking, Shapes
from surgery.diagnose.classify import classify
from surgery.diagnose.remedy import PROFILE, derived_ranges
from surgery.diagnose.telling import Telling
from surgery.shape_text import range_text

if TYPE_CHECKING:
    from surgery.trt.types import BuildOutcome

LEFT = "what is left without the nodes above was parsed and not built"

GLOBAL = PROFILE | {
    "workspace-too-small", "no-outputs", "file-truncated", "engine-gpu-mismatch", "bf16-dtype", "opset-too-new",
}  # fmt: skip
"""Classes that are not about one node: nothing is gained by looking for it."""


class Building:
    """A search with the builder.

    Args:
        asking: What answers.
        telling: What takes down the problems.
        shapes: Per input (minimum, optimum, maximum) shape, exactly these; None derives them.
    """

    def __init__(self, asking: Asking, telling: Telling, shapes: Shapes | None) -> None:
        self.asking, self.telling, self.shapes = asking, telling, shapes
        self.work, self.result = telling.work, telling.result

    def run(self) -> None:
        """Build what is left until it builds, and write down what does not."""
        for _ in range(ROUNDS):
            if (self.work.cut or self.work.skipped) and not self._fixed():
                return
            model = self.work.for_build()
            if not model.graph.output:
                return
            if self.asking.left() < 1:
                self.telling.stop("the time was over before everything was built")
                return
            outcome = self.asking.build(model, self.shapes)
            if outcome.ok:
                self._note_profile()
                return
            if outcome.parse_errors and self.telling.ends_well():
                return
            if outcome.parse_errors:
                self.result.notes.append(f"{LEFT}: at fixed shapes the parser refuses it")
                return
            if outcome.timed_out:
                self.telling.stop(
                    "the build did not end in the time given (--seconds); up to then nothing was refused"
                )
                return
            if self._only_the_range():
                return
            if not self._failed(outcome):
                return
        self.telling.stop(f"more than {ROUNDS} rounds")

    def _only_the_range(self) -> bool:
        """Whether a model that does not build over derived ranges does so at fixed shapes; tells which."""
        ranges = derived_ranges(self.work.facts)
        if self.shapes is not None or not ranges or self.work.cut or self.work.skipped:
            return False
        for part in range(2):
            if self.asking.left() < 5:
                return False
            fixed = {n: (r[part], r[part], r[part]) for n, r in ranges.items()}
            for name, shapes in fixed.items():
                batch = tuple(b if low != high else f for low, f, b, high in zip(
                    ranges[name][0], shapes[0], ranges[name][1], ranges[name][2], strict=True))  # fmt: skip
                first = batch[:1] + shapes[0][1:]
                fixed[name] = (first, first, first)
            outcome = self.asking.build(self.work.for_build(), fixed)
            if outcome.ok:
                listed = "; ".join(f"{n} {'x'.join(map(str, s[0]))}" for n, s in fixed.items())
                self.result.notes.append(
                    f"it builds at fixed shapes ({listed}), not over ranges that were guessed; "
                    "give real ones with --shape"
                )
                return True
        return False

    def _fixed(self) -> bool:
        """Give what is left fixed shapes; False if what stands for a cut node has none."""
        facts = self.work.facts
        best = {n: s[1] for n, s in derived_ranges(facts).items()}
        best.update({n: tuple(s[1]) for n, s in (self.shapes or {}).items() if n in best})
        free = self.work.specialise(best)
        if free and not self.telling.ends_well():
            named = ", ".join(repr(self.work.readable(n)) for n in free[:5])
            self.result.notes.append(f"{LEFT}: the shape of {named} is not known before the model runs")
        return not free

    def _failed(self, outcome: BuildOutcome) -> bool:
        """Say what the builder refused and cut it out; False to end the search."""
        messages = list(outcome.errors) or [
            "the builder used too much memory" if outcome.out_of_memory else "the builder aborted"
            if outcome.aborted else "the builder refused the model and gave no reason"
        ]  # fmt: skip
        found = classify([self.telling.spelt(m) for m in messages], model=self.work.facts)
        tokens = [t for m in messages for t in self.work.tokens(m)]
        tokens = [t for t in dict.fromkeys(tokens) if t not in self.work.cut]
        if found and found[0].id in GLOBAL:
            self.telling.add("build", messages, messages, None)
            return False
        if len(tokens) == 1:
            derived = self.shapes is None and any("for profile 0 violate" in m for m in messages)
            how = "with shapes that were derived; give the real ones with --shape" if derived else None
            self.telling.add("build", messages, messages, tokens[0], located=how)
            self.work.drop(tokens)
            return True
        seen = [t for t in self.work.tokens(found[0].node or "") if self._is_there(t)] if found else []
        if not tokens and seen and found[0].evidence:
            self.telling.add(
                "build", messages, messages, seen[0], located="the node that fulfils what the message says"
            )
            self.work.drop(seen)
            return True
        return self._bisect(messages, outcome)

    def _is_there(self, token: str) -> bool:
        return self.work.index(self.work.owner(token)) is not None and token not in self.work.cut

    def _same(self, first: BuildOutcome, other: BuildOutcome, ident: str | None) -> bool:
        if other.ok or other.parse_errors or other.timed_out:
            return False
        if first.aborted or first.out_of_memory:
            return other.aborted or other.out_of_memory
        found = classify([self.telling.spelt(m) for m in other.errors], model=self.work.facts)
        return (found[0].id if found else None) == ident

    def _bisect(self, messages: list[str], outcome: BuildOutcome) -> bool:
        """Find the shortest beginning of the graph that fails alike, then the shortest end of that."""
        found = classify([self.telling.spelt(m) for m in messages], model=self.work.facts)
        ident = found[0].id if found else None
        count, asked = len(self.work.model.graph.node), 0

        def fails(first: int, last: int) -> bool:
            nonlocal asked
            asked += 1
            return self._same(outcome, self.asking.build(self.work.part(first, last), self.shapes), ident)

        low, high = 0, count
        while high - low > 1 and self.asking.left() > 2:
            middle = (low + high) // 2
            low, high = (low, middle) if fails(0, middle) else (middle, high)
        sure = high - low <= 1
        start, end = 0, high - 1
        while start < end and self.asking.left() > 2:
            middle = (start + end + 1) // 2
            start, end = (middle, end) if fails(middle, high) else (start, middle - 1)
        nodes = [n.name for n in list(self.work.model.graph.node)[start:high]]
        names = ", ".join(
            f"{self.work.origins[t].op} {self.work.origins[t].name!r}"
            for t in nodes[:6]
            if t in self.work.origins
        )
        more = f" and {len(nodes) - 6} more" if len(nodes) > 6 else ""
        how = f"by building parts of the graph ({asked} builds): {names}{more} fails alone"
        if not asked:
            how = "no other node is left to blame"
        if not sure or start < end:
            self.telling.stop("the time was over before the failing nodes were found")
            how = f"not to the end: somewhere among {len(nodes)} nodes up to here"
        last = nodes[-1] if nodes else None
        if last is None or last not in self.work.origins:
            self.telling.add("build", messages, messages, None)
            return False
        self.telling.add("build", messages, messages, last, located=how)
        if not sure:
            return False
        self.work.drop([last])
        return True

    def _note_profile(self) -> None:
        ranges = derived_ranges(self.work.facts)
        if self.shapes is None and ranges and self.telling.ends_well() and self.result.trial is not None:
            if self.result.trial.ranges:
                text = "inputs with free dims need an optimization profile; --shape gives another than the one above"
                self.result.notes.append(text)
        elif self.shapes is None and ranges:
            listed = "; ".join(f"{n} {range_text(shapes)}" for n, shapes in ranges.items())
            self.result.notes.append(
                f"inputs with free dims need an optimization profile; the one derived here: {listed} (--shape)"
            )
