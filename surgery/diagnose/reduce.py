"""Reducing a failing model: the fewest nodes that fail alike, as a folder that can be attached to a bug report."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from surgery.diagnose.bodies import BodyParts, bodies_of, count_nodes, lifted
from surgery.diagnose.checks import Answer, Check, CommandCheck, EngineCheck, TensorRtCheck, broken, need_gpu
from surgery.diagnose.grouping import LONGEST, said
from surgery.diagnose.journal import Journal
from surgery.diagnose.parts import Parts
from surgery.diagnose.reduction import Options, Reduction
from surgery.diagnose.shrink import Set, shrink
from surgery.errors import ConfigError, MissingEnvironmentError, ModelError
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

    from surgery.diagnose.bodies import Path as BodyPath
    from surgery.graph.load import LoadedModel
    from surgery.targets import Target

MOST_STAGES = 16
"""Times that bodies are made smaller, and after them what is around them."""

JOBS = 4
"""Most checks side by side without --jobs."""

INLINE_BYTES = 1 << 30
"""Weights up to which the reduced model holds them itself."""


Say = Callable[[str], None]


def reduce(
    model: str | Path, folder: str | Path, options: Options, say: Say = lambda text: None
) -> Reduction:
    """Find the fewest nodes of a model that fail as the whole does, and write them into a folder.

    Args:
        model: Path of an ``.onnx`` file.
        folder: Receives the reduced model, its inputs, versions, a script, and the journal of checks. A journal
            that is there already, of the same model and options, is gone on with.
        options: What has to go on failing, and how it is asked.
        say: Called with one line at a time about the progress.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: it does not fail, or the check is broken; nothing is written then.
        MissingEnvironmentError: that TensorRT is not installed, or there is no GPU to compare engines on.
    """
    from surgery.graph.load import load_model
    from surgery.report.write import check_writable

    started = time.monotonic()
    if (options.while_ is None) == (options.command is None):
        raise ConfigError(
            "give either --while or --check", code="usage", where="surgery reduce",
            fix="--while 'parse fails', --while 'build fails', --while 'engine differs', or --check COMMAND",
        )  # fmt: skip
    source = load_model(model)
    check_writable(Path(folder))
    work = _Work(source, Path(folder), options, say)
    try:
        return work.run(started)
    finally:
        work.close()


def _same(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


class _Work:
    def __init__(self, source: LoadedModel, folder: Path, options: Options, say: Say) -> None:
        from surgery.diagnose.parts import with_random_weights

        self.source, self.folder, self.options, self.say = source, folder, options, say
        self.notes: list[str] = []
        self.target = self._target()
        self.jobs = options.jobs or min(os.cpu_count() or 1, JOBS)
        self.counts: Counter[str] = Counter()
        self._checks: list[Check] = []
        self._idle: SimpleQueue[Check] = SimpleQueue()
        self._lock = threading.Lock()
        self._wanted: Answer | None = None
        self._stage = ""
        proto = source.proto
        if options.random_weights:
            proto, count = with_random_weights(proto, source.base_dir, options.seed)
            self.notes.append(f"{count} weights are random numbers")
        self.values = self._run_once(proto)
        self.parts: Parts = Parts(proto, self.values)
        if self.parts.guessed:
            named = ", ".join(map(repr, self.parts.guessed[:5]))
            self.notes.append(
                f"types that cannot be inferred were taken from the node's first operand: {named}"
            )
        header = {"model": source.sha256, "options": options.identity(), "target": self._version()}
        self._journal = Journal(folder, header)

    def _target(self) -> Target | None:
        if self.options.while_ is None:
            return None
        from surgery.targets import resolve_target

        target = resolve_target(self.options.target)
        if not target.installed:
            raise MissingEnvironmentError(
                f"{target.name} is not installed here", code="target-not-installed",
                fix="`surgery doctor` says what is; or give a command: --check COMMAND",
            )  # fmt: skip
        return target

    def _version(self) -> str | None:
        return None if self.target is None else f"{self.target.flavour} {self.target.installed_version}"

    def close(self) -> None:
        """End all checks."""
        for check in self._checks:
            check.close()
        self._journal.close()

    # -- values -----------------------------------------------------------------------------------------------------

    def _feeds(self, proto: onnx.ModelProto) -> dict[str, Any]:
        """The given values of inputs, or made-up ones at the sizes of the derived profile."""
        import numpy as np

        from surgery.diagnose.facts import Facts, kind_of
        from surgery.diagnose.remedy import derived_ranges
        from surgery.verify.inputs import derive_input

        feeds = {n: np.asarray(v) for n, v in (self.options.inputs or {}).items()}
        ranges: dict[str, Any] = dict(derived_ranges(Facts(proto)))
        ranges.update(self.options.shapes or {})
        rng = np.random.default_rng(self.options.seed)
        initial = {t.name for t in proto.graph.initializer}
        for value in proto.graph.input:
            kind = kind_of(value)
            if value.name in feeds or value.name in initial or kind.dims is None or kind.dtype is None:
                continue
            shape: Any = ranges[value.name][1] if value.name in ranges else kind.dims
            try:
                feeds[value.name] = derive_input(value.name, kind.dtype, [int(d) for d in shape], rng)
            except (TypeError, ValueError):  # a type that numpy does not have
                continue
        return feeds

    def _run_once(self, proto: onnx.ModelProto) -> dict[str, Any]:
        """What all tensors of the main graph are on one input, where ONNX Runtime runs the model and it is needed."""
        import onnx

        from surgery.diagnose.facts import Facts
        from surgery.graph.deadline import EndlessError
        from surgery.graph.evaluate import EvaluationError, Evaluator
        from surgery.stages.trt_model import on_disk

        feeds = self._feeds(proto)
        facts = Facts(proto)
        names = [o for n in proto.graph.node for o in n.output if o]
        unknown = [n for n in names if facts.main.kind(n).dims is None or facts.main.kind(n).dtype is None]
        wanted = names if self.options.while_ == "engine differs" else unknown
        if not wanted:
            return feeds
        whole = onnx.ModelProto()
        whole.CopyFrom(proto)
        have = {o.name for o in whole.graph.output}
        whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in have)
        try:
            with on_disk(whole, self.source) as placed:
                found = Evaluator(placed).run(feeds, wanted, self.options.seconds)
        except (EvaluationError, EndlessError) as error:
            why = error.message if isinstance(error, EndlessError) else error
            self.notes.append(
                f"ONNX Runtime does not run the model ({why}); shapes are those that can be inferred"
            )
            return feeds
        import numpy as np

        return {**feeds, **{n: v for n, v in found.items() if isinstance(v, np.ndarray)}}

    # -- asking -----------------------------------------------------------------------------------------------------

    def _check(self) -> Check:
        options, target = self.options, self.target
        if target is None:
            assert options.command is not None
            return CommandCheck(
                options.command, self.source, match=options.match, fail_code=options.fail_code,
                seconds=options.seconds,
            )  # fmt: skip
        from surgery.trt.session import Worker

        worker = Worker(target.flavour)
        if options.while_ == "engine differs":
            if not self._checks:
                need_gpu(worker)
            return EngineCheck(worker, self.source, self.values, options.tolerance, options.seconds)
        memory = options.memory_mib << 20 if options.memory_mib else None
        return TensorRtCheck(
            worker, self.source, build=options.while_ == "build fails", shapes=options.shapes,
            seconds=options.seconds, memory_bytes=memory,
        )  # fmt: skip

    def _take(self) -> Check:
        with self._lock:
            if self._idle.empty() and len(self._checks) < self.jobs:
                self._checks.append(self._check())
                return self._checks[-1]
        return self._idle.get()

    def _ask(self, model: onnx.ModelProto) -> Answer:
        check = self._take()
        try:
            return check.ask(model)
        finally:
            self._idle.put(check)

    def _about(self, units: Set) -> Answer:
        """The answer about a set of units, from the journal or by asking."""
        nodes = sum(len(self.parts.units[u]) for u in units)
        return self._answer(
            self._stage + ",".join(map(str, sorted(units))), nodes,
            lambda: self.parts.model_of(units) if units else None,
        )  # fmt: skip

    def _answer(self, what: str, nodes: int, make: Callable[[], onnx.ModelProto | None]) -> Answer:
        """The answer about a model that has a name in the journal."""
        key = hashlib.sha256(what.encode()).hexdigest()[:24]
        known = self._journal.get(key)
        if known is not None:
            with self._lock:
                self.counts["known"] += 1
            return known
        model = make()
        answer = self._ask(model) if model is not None else Answer("passes")
        with self._lock:
            other = self._wanted is not None and answer.kind == "fails" and not answer.like(self._wanted)
            self.counts["fails otherwise" if other else answer.kind] += 1
            self._journal.add(key, nodes, answer)
        return answer

    # -- the course of it -------------------------------------------------------------------------------------------

    def run(self, started: float) -> Reduction:
        """Ask about the whole, shrink, write."""
        everything = frozenset(range(len(self.parts.units)))
        if known := self._journal.read():
            self.say(f"{known} answers of an earlier run are known")
        wanted = self._about(everything)
        if wanted.kind in ("passes", "unclear"):
            raise self._does_not_fail(wanted)
        self._wanted = wanted
        if self.target is None and self.options.canary:
            self._canary(wanted)
        self._journal.open()
        count = count_nodes(self.parts.model.graph)
        self.say(f"{count} {'node' if count == 1 else 'nodes'}: {wanted.kind} ({wanted.mark})")
        left, minimal = self._shrunk(self.parts, self._about, len(everything))
        for number in range(MOST_STAGES):
            smaller = self._inside(self.parts.model_of(left), f"{number} ") if minimal else None
            if smaller is None:
                break
            self.parts = Parts(smaller, self.values)
            self._stage = f"{number + 1}:"
            left, minimal = self._shrunk(self.parts, self._about, len(self.parts.units))
        if not minimal:
            self.notes.append(
                f"it ended after {self.options.most_checks} checks; with more, --most-checks goes on from there"
            )
        return self._write(left, count, started)

    def _asked(self, models: Sequence[Callable[[], Answer]]) -> list[bool]:
        """Which of some models fail as the whole does, side by side."""
        assert self._wanted is not None
        if len(models) == 1 or self.jobs == 1:
            answers = [ask() for ask in models]
        else:
            with ThreadPoolExecutor(self.jobs) as pool:
                answers = list(pool.map(lambda ask: ask(), models))
        return [a.like(self._wanted) for a in answers]

    def _shrunk(
        self, parts: Parts | BodyParts, about: Callable[[Set], Answer], count: int
    ) -> tuple[Set, bool]:
        """The fewest units that fail alike, and whether no single one can be left out."""
        smallest = count

        def fails(sets: Sequence[Set]) -> list[bool]:
            nonlocal smallest
            alike = self._asked([partial(about, s) for s in sets])
            for one, good in zip(sets, alike, strict=True):
                if good and len(one) < smallest:
                    smallest = len(one)
                    nodes = sum(len(parts.units[u]) for u in one)
                    self.say(f"{nodes} nodes still fail ({sum(self.counts.values())} checks)")
            return alike

        spent = sum(self.counts.values())
        return shrink(range(count), fails, self.jobs, max(1, self.options.most_checks - spent))

    def _inside(self, model: onnx.ModelProto, stage: str) -> onnx.ModelProto | None:
        """A body alone that fails alike, or the model with nodes left out of its bodies; None if all is needed."""
        paths = list(bodies_of(model.graph))
        alone = [m for m in (lifted(model, p) for p in paths) if m is not None]
        if alone:
            good = self._asked(
                [
                    partial(self._answer, f"{stage}alone {i}", count_nodes(m.graph), partial(_same, m))
                    for i, m in enumerate(alone)
                ]
            )
            fitting = [m for m, fails in zip(alone, good, strict=True) if fails]
            if fitting:
                return min(fitting, key=lambda m: count_nodes(m.graph))
        before = count_nodes(model.graph)
        for path in reversed(
            paths
        ):  # what is left out moves what is inside the body, which has been done then
            model = self._emptied(model, path, stage)
        return model if count_nodes(model.graph) < before else None

    def _emptied(self, model: onnx.ModelProto, path: BodyPath, stage: str) -> onnx.ModelProto:
        """The model with the fewest nodes in one body."""
        parts = BodyParts(model, path)

        def about(units: Set) -> Answer:
            what = f"{stage}{path} " + ",".join(map(str, sorted(units)))
            return self._answer(what, sum(len(parts.units[u]) for u in units), lambda: parts.model_of(units))

        if not parts.units:
            return model
        if self._asked([partial(about, frozenset())])[0]:
            return parts.model_of(frozenset())
        left, _ = self._shrunk(parts, about, len(parts.units))
        return parts.model_of(left) if len(left) < len(parts.units) else model

    def _does_not_fail(self, answer: Answer) -> ConfigError:
        what = self.options.while_ or f"--check {self.options.command}"
        if answer.kind == "unclear":
            known = {
                "no match": "its output does not match --match",
                "125": "the check says 125: it cannot tell",
                "parse": "the parser already refuses it, so that nothing is built",
            }
            why = known.get(answer.mark, answer.text)
            last = answer.text.splitlines()[-1] if answer.text else None
            return ConfigError(
                f"the model cannot be asked about: {why}", code="nothing-to-reduce", where=what,
                cause=said(answer.text)[:LONGEST] or None if self.options.while_ else last,
                fix="surgery reduce MODEL --while 'parse fails'" if answer.mark == "parse" else None,
            )  # fmt: skip
        hint = " with random weights; leave --random-weights away" if self.options.random_weights else ""
        return ConfigError(
            f"the model does not fail{hint}", code="nothing-to-reduce", where=what,
            cause=None if self.options.while_ else "the check ends with 0, which means that the model is good",
            fix="`surgery explain MODEL` says what TensorRT says to it",
        )  # fmt: skip

    def _canary(self, wanted: Answer) -> None:
        """A check that says the same to a model with nothing in it is about something else."""
        trivial = self.parts.trivial()
        if trivial is None:
            return
        answer = self._ask(trivial)
        if answer.like(wanted):
            raise broken(
                str(self.options.command),
                f"it says the same ({wanted.kind}, {wanted.mark}) to a model with nothing in it but an Identity; "
                "--no-canary goes on all the same", answer.text,
            )  # fmt: skip
        if answer.kind != "passes":
            self.notes.append(
                f"of a model with nothing in it, the check says: {answer.kind} {answer.mark}".rstrip()
            )

    # -- the folder -------------------------------------------------------------------------------------------------

    def _write(self, left: Set, count: int, started: float) -> Reduction:
        import onnx

        from surgery.diagnose.facts import label
        from surgery.diagnose.report_folder import write_folder
        from surgery.graph.load import tensors_of
        from surgery.graph.outside import take_in

        model = self.parts.model_of(left)
        outside = [t for t in tensors_of(model.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
        size = sum(int(e.value) for t in outside for e in t.external_data if e.key == "length")
        if size > INLINE_BYTES:
            raise ModelError(
                "what is left holds more than 1 GB of weights", code="too-large", where=self.source.name,
                fix="reduce it with --random-weights after making the layers smaller",
            )  # fmt: skip
        for tensor in outside:
            assert self.source.base_dir is not None  # the model was loaded from a file
            take_in(tensor, self.source.base_dir)
        answer = self._about(left)
        result = Reduction(
            self.folder, count, count_nodes(model.graph),
            [(label(n), n.op_type) for n in all_nodes(model.graph.node) if n.op_type != "Constant"], answer,
            dict(self.counts), time.monotonic() - started, self.notes,
        )  # fmt: skip
        feeds = {v.name: self.values[v.name] for v in model.graph.input if v.name in self.values}
        if len(feeds) < len(model.graph.input):
            feeds = {**self._feeds(model), **feeds}
        write_folder(result, model, feeds, self.options, self.target, self.source)
        return result
