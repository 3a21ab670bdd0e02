"""Asking whether a model fails: parser, builder, engine or a command; every kind of answer is told apart."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from surgery.diagnose.classify import classify
from surgery.diagnose.grouping import about_model
from surgery.errors import ConfigError, MissingEnvironmentError

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel
    from surgery.trt.session import Worker

Kind = Literal["passes", "fails", "crashes", "times out", "unclear"]

CANNOT_TELL, NOT_EXECUTABLE, NOT_FOUND, USAGE = 125, 126, 127, 2
"""Exit codes with a meaning of their own: git bisect's "skip", the shell's two, and that of wrong options."""

TEXT = 4000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking about one model.

    Attributes:
        kind: ``unclear`` is neither passing nor failing: the model could not be asked about.
        mark: What two answers share that fail alike: a class of failures, an exit code, a signal.
        text: What was said.
        seconds: How long it took.
    """

    kind: Kind
    mark: str = ""
    text: str = ""
    seconds: float = 0.0

    def like(self, other: Answer) -> bool:
        """Whether two models fail alike."""
        return self.kind == other.kind and self.mark == other.mark


class Check(Protocol):
    """Something that can be asked about models, one at a time; used by one thread."""

    def ask(self, model: onnx.ModelProto) -> Answer:
        """Ask about a model.

        Raises:
            ConfigError: the check itself is broken.
        """
        ...

    def close(self) -> None:
        """End what it keeps running."""
        ...


_NOISE = re.compile(r"\d+(\.\d+)?|\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"")


def masked(text: str, names: Sequence[str] = ()) -> str:
    """A message without numbers, names and lists, so that the same failure of another model reads alike."""
    for name in sorted(names, key=len, reverse=True):
        if len(name) > 2:
            text = text.replace(name, "<name>")
    return _NOISE.sub("#", text.splitlines()[0] if text else "")[:200]


class TensorRtCheck:
    """Parser, or parser and builder, in a child process.

    Args:
        worker: The process; ended by :meth:`close`.
        source: Where external weights lie.
        build: Whether what parses is built; a model that does not parse is ``unclear`` then.
        shapes: Shapes of inputs (minimum, optimum, maximum); others are derived.
        seconds: Time for one model.
        memory_bytes: Memory of the child process, or None.
    """

    def __init__(
        self,
        worker: Worker,
        source: LoadedModel,
        *,
        build: bool,
        shapes: Mapping[str, Any] | None = None,
        seconds: float = 120.0,
        memory_bytes: int | None = None,
    ) -> None:
        self._worker, self._source, self._build = worker, source, build
        self._shapes, self._seconds, self._memory = shapes or {}, seconds, memory_bytes

    def ask(self, model: onnx.ModelProto) -> Answer:
        """As :class:`Check` says."""
        from surgery.diagnose.facts import Facts
        from surgery.diagnose.remedy import derived_ranges
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import BuildOptions, Limits, ShapeProfile

        limits = Limits(self._seconds, self._memory)
        started = time.monotonic()
        outcome: Any
        with on_disk(model, self._source) as placed:
            data = placed if isinstance(placed, Path) else placed.SerializeToString()
            if self._build:
                ranges = derived_ranges(Facts(model))
                given = {v.name for v in model.graph.input}
                ranges.update({n: s for n, s in self._shapes.items() if n in given})
                profile = [ShapeProfile(n, *map(tuple, s)) for n, s in ranges.items()]
                outcome = self._worker.build(
                    data, [profile] if profile else [], BuildOptions(tf32=False), limits=limits
                )
            else:
                outcome = self._worker.parse(data, limits=limits)
        spent = time.monotonic() - started
        if outcome.ok:
            return Answer("passes", seconds=spent)
        if outcome.timed_out:
            return Answer("times out", text=f"no answer in {self._seconds:g} s", seconds=spent)
        if outcome.aborted or outcome.out_of_memory:
            how = "memory" if outcome.out_of_memory else "abort"
            step = "build" if self._build and outcome.last_node is None else "parse"
            said = f"at node {outcome.last_node!r}" if outcome.last_node else "no node was announced"
            return Answer("crashes", f"{how} in {step}" if not self._build else how, said, spent)
        if not self._build:
            return _parser(outcome.errors, spent)
        if outcome.parse_errors:
            return Answer("unclear", "parse", about_model(outcome.parse_errors[0].description)[:TEXT], spent)
        return _builder(outcome.errors, [n.name for n in model.graph.node], spent)

    def close(self) -> None:
        """As :class:`Check` says."""
        self._worker.close()


def _parser(errors: Sequence[Any], seconds: float) -> Answer:
    first = errors[0] if errors else None
    if first is None:
        return Answer("fails", "no message", "the parser refused the model and gave no reason", seconds)
    names = [first.node_name] if first.node_name else []
    text = about_model(first.description)
    found = classify([replace(first, description=text)])
    why = found[0].id if found else masked(text, names)
    return Answer("fails", f"{first.code} {first.node_op} {first.function} {why}", text[:TEXT], seconds)


def _builder(errors: Sequence[str], names: Sequence[str], seconds: float) -> Answer:
    told = [about_model(e) for e in errors]
    text = about_model("\n".join(told))
    found = classify(told) if told else []
    mark = found[0].id if found else masked(told[0] if told else "", names)
    return Answer("fails", mark, text[:TEXT], seconds)


class EngineCheck:
    """Whether an engine computes what ONNX Runtime computes; needs a GPU.

    Args:
        worker: The process; ended by :meth:`close`.
        source: Where external weights lie.
        values: What tensors were when the whole model was run.
        tolerance: Absolute and relative difference from which on numbers differ.
        seconds: Time for one model.
    """

    def __init__(
        self, worker: Worker, source: LoadedModel, values: Mapping[str, Any], tolerance: float, seconds: float
    ) -> None:
        self._worker, self._source, self._values = worker, source, values
        self._tolerance, self._seconds = tolerance, seconds

    def ask(self, model: onnx.ModelProto) -> Answer:
        """As :class:`Check` says."""
        from surgery.graph.deadline import EndlessError
        from surgery.graph.evaluate import EvaluationError, Evaluator
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import BuildOptions, Limits, ShapeProfile
        from surgery.verify.tensors import Tolerance, compare_tensor

        started = time.monotonic()
        names = [v.name for v in model.graph.input]
        if any(n not in self._values for n in names):
            return Answer("unclear", text="no value is known for some input")
        feeds = {n: self._values[n] for n in names}
        profile = [ShapeProfile(n, *[tuple(feeds[n].shape)] * 3) for n in names if _is_free(model, n)]
        try:
            with on_disk(model, self._source) as placed:
                data = placed if isinstance(placed, Path) else placed.SerializeToString()
                expected = Evaluator(data).run(feeds, seconds=self._seconds)
                outcome = self._worker.build(
                    data, [profile] if profile else [], BuildOptions(tf32=False), limits=Limits(self._seconds)
                )
        except (EvaluationError, EndlessError) as error:  # a loop may lack what has ended it
            return Answer("unclear", "onnxruntime", str(error)[:TEXT], time.monotonic() - started)
        if not outcome.ok or outcome.engine is None:
            return Answer("unclear", "build", "it does not build", time.monotonic() - started)
        ran = self._worker.run(outcome.engine, [feeds], limits=Limits(self._seconds))
        spent = time.monotonic() - started
        if ran.timed_out:
            return Answer("times out", text=f"no answer in {self._seconds:g} s", seconds=spent)
        if not ran.ok:
            return Answer("crashes", "engine", (ran.error or "the process ended")[:TEXT], spent)
        tolerance = Tolerance(self._tolerance, self._tolerance)
        for name, wanted in expected.items():
            if name not in ran.outputs[0]:
                return Answer("unclear", "output", f"the engine has no output {name!r}", spent)
            compared = compare_tensor(name, wanted, ran.outputs[0][name].reshape(wanted.shape), tolerance)
            if not compared.passed:
                return Answer("fails", "differs", f"{name}: off by {compared.max_abs:.3g}", spent)
        return Answer("passes", seconds=spent)

    def close(self) -> None:
        """As :class:`Check` says."""
        self._worker.close()


def _is_free(model: onnx.ModelProto, name: str) -> bool:
    from surgery.diagnose.facts import kind_of

    value = next(v for v in model.graph.input if v.name == name)
    return any(not isinstance(d, int) for d in kind_of(value).dims or ())


class CommandCheck:
    """A command of the user: 0 passes, 125 cannot tell, anything else fails, and alike with the same exit code.

    Exit codes 2 (wrong options), 126 and 127 (no such command) are of a broken check. A command that ends by a signal
    has crashed.

    Args:
        command: As for a shell; ``{}`` stands for the model's path, which is put at the end where it does not occur.
        source: Where external weights lie.
        match: Pattern that the output of a failing check has to have, or None.
        fail_code: The exit code of a failing model where it is one of those above, or None.
        seconds: Time for one model.
    """

    def __init__(
        self,
        command: str,
        source: LoadedModel,
        *,
        match: str | None = None,
        fail_code: int | None = None,
        seconds: float = 120.0,
    ) -> None:
        self.command = command if "{}" in command else f"{command} {{}}"
        self._source, self._seconds, self._fail = source, seconds, fail_code
        try:
            self._match = re.compile(match) if match is not None else None
        except re.error as error:
            raise ConfigError(
                f"not a regular expression: {error}", code="bad-option", where=f"--match {match}"
            ) from error

    def ask(self, model: onnx.ModelProto) -> Answer:
        """As :class:`Check` says."""
        from surgery.stages.trt_model import on_disk

        with on_disk(model, self._source) as placed:
            if isinstance(placed, Path):
                return self._run(placed)
            with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(placed.SerializeToString())
                return self._run(path)

    def _run(self, path: Path) -> Answer:
        command = self.command.replace("{}", shlex.quote(str(path)))
        started = time.monotonic()
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return Answer("times out", text=f"no answer in {self._seconds:g} s", seconds=self._seconds)
        except BaseException:
            _end(process)
            raise
        text = output.decode(errors="replace").strip()[-TEXT:]
        return self._judge(process.returncode, text, time.monotonic() - started)

    def _judge(self, code: int, text: str, seconds: float) -> Answer:
        if self._fail is not None and code == self._fail:
            return self._matched(code, text, seconds)
        if code == 0:
            return Answer("passes", text=text, seconds=seconds)
        if code == CANNOT_TELL:
            return Answer("unclear", "125", text, seconds)
        if code in (USAGE, NOT_EXECUTABLE, NOT_FOUND):
            why = {USAGE: "its options are wrong", NOT_EXECUTABLE: "it cannot be executed",
                   NOT_FOUND: "there is no such command"}[code]  # fmt: skip
            raise broken(self.command, f"exit code {code}: {why}", text)
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = str(number)
            return Answer("crashes", name, text, seconds)
        return self._matched(code, text, seconds)

    def _matched(self, code: int, text: str, seconds: float) -> Answer:
        if self._match is not None and not self._match.search(text):
            return Answer("unclear", "no match", text, seconds)
        return Answer("fails", str(code), text, seconds)

    def close(self) -> None:
        """Nothing is kept running."""


def _end(process: subprocess.Popen[bytes]) -> None:
    import contextlib
    import os

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def broken(command: str, why: str, text: str = "") -> ConfigError:
    """The error of a check that says nothing about models."""
    last = text.splitlines()[-1] if text else None
    return ConfigError(
        f"the check is broken: {why}",
        code="broken-check",
        where=f"--check {command}",
        cause=last,
        fix="it has to end with 0 for a model that is good and with 1 for one that fails; try it by hand",
    )


def need_gpu(worker: Worker) -> None:
    """Make sure that engines can run.

    Raises:
        MissingEnvironmentError: they cannot.
    """
    found = worker.environment()
    if found.gpu is None:
        raise MissingEnvironmentError(
            "comparing engines needs a GPU", code="no-gpu", cause=found.reason_no_gpu,
            fix="run it on a machine with a GPU; --while 'parse fails' and 'build fails' need none",
        )  # fmt: skip
