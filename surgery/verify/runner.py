"""Original and result side by side: Polygraphy's runners and comparator, with our comparison in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.graph.deadline import EndlessError
from surgery.graph.evaluate import FOREIGN, note_on, open_session, payload_of, run_session
from surgery.verify.cases import MIN_CASES, Case
from surgery.verify.compare import Arrays, CaseResult, DetectionOutputs, compare_case
from surgery.verify.inverse import apply_inverses, apply_to_inputs
from surgery.verify.refusal import in_words
from surgery.verify.tensors import Tolerance

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["DetectionOutputs", "RunError", "Verification", "run_onnx", "verify_graph", "verify_with"]

Runner = Callable[[Sequence[Arrays]], Sequence[Arrays]]
Say = Callable[[str, "float | None"], None]
"""Takes what is being done, and how much of it is done in 0..1."""

MIN_EVIDENCE = MIN_CASES
"""Cases in which something must have been detected; a case without detections proves nothing."""

THREADS = 2
"""Threads of ONNX Runtime: a fixed number, so that the same run gives the same numbers everywhere."""

SPLIT_BY_THREADS = b"DynamicQuantizeLSTM"
"""The operator whose kernel shares the sequences of a batch out among threads, and quantises each share by itself:
what it computes depends on their number, so it gets one."""


class RunError(Exception):
    """A model did not load or run; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a comparison: whether it passed, why not, and every case as it stands in the report.

    Notes say what is special about how the original was run.
    """

    status: Literal["passed", "failed"]
    reason: str | None
    cases: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Entry of the report."""
        found = {"status": self.status, "reason": self.reason, "cases": list(self.cases)}
        return {**found, "notes": list(self.notes)} if self.notes else found


def verify_graph(
    original: onnx.ModelProto | bytes | Path,
    result: onnx.ModelProto | bytes | Path,
    pre: onnx.ModelProto | bytes | Path | None,
    cases: Sequence[Case],
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    inverses: Sequence[Mapping[str, Any]] = (),
    *,
    min_evidence: int = MIN_EVIDENCE,
    empty: bool = False,
    say: Say | None = None,
) -> Verification:
    """Compare original(x) with result(pre(x)), both in ONNX Runtime.

    Inputs of the result that `pre` does not make are taken from x by name. A model with external weights has
    to be a path. See :func:`verify_with` for the rest.
    """

    def run(feeds: Sequence[Arrays]) -> Sequence[Arrays]:
        return run_onnx(result, feeds, "the result", say=say)

    return verify_with(
        original,
        pre,
        cases,
        run,
        detections,
        tolerances,
        inverses,
        runner="result",
        min_evidence=min_evidence,
        empty=empty,
        say=say,
    )


def verify_with(
    original: onnx.ModelProto | bytes | Path,
    pre: onnx.ModelProto | bytes | Path | None,
    cases: Sequence[Case],
    run: Runner,
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    inverses: Sequence[Mapping[str, Any]] = (),
    *,
    runner: str,
    min_evidence: int = MIN_EVIDENCE,
    empty: bool = False,
    by_rounding: bool = False,
    say: Say | None = None,
) -> Verification:
    """Compare original(x) with run(pre(x)); `run` gets all feeds at once.

    A model that does not load or run, and an inverse that does not fit, is a failed verification.

    Args:
        original: The original model.
        pre: The prefix that was cut off, or None.
        cases: Inputs of the original.
        run: Runs what is to be verified; raises RunError if it cannot.
        detections: Which outputs are detections; all others are plain tensors.
        tolerances: Of plain float outputs; 1e-4 for those that are not in it.
        inverses: What brings the outputs of `run` back to the original's contract.
        runner: What is verified, for Polygraphy's results.
        min_evidence: With `detections`, the cases in which the original has to detect something.
        empty: The original declares every output to be empty; then equal shapes and dtypes are all there is.
        by_rounding: Accept what is no further off than rounding moves the original; for a `run` that adds in
            another order than ONNX Runtime. A model that computes in 16 bits is judged so in any case, whatever
            its outputs are: written out in other operators, it rounds in other places.
        say: Told before each input that ONNX Runtime runs.
    """
    try:
        feeds = [case.feeds for case in cases]
        notes: list[str] = []
        want = run_onnx(original, feeds, "the original", notes, say)
        made: Sequence[Arrays] = [{} for _ in feeds]
        if pre is not None:
            made = run_onnx(pre, feeds, "the preprocessing")
        got = run([apply_to_inputs({**x, **m}, inverses) for x, m in zip(feeds, made, strict=True)])
        if len(got) != len(feeds):
            return Verification("failed", f"{len(got)} outputs came back for {len(feeds)} inputs", ())
        got = [apply_inverses(g, inverses) for g in got]
    except (RunError, ValueError) as error:
        return Verification("failed", str(error), ())
    results = _compare(cases, want, got, detections, tolerances, runner)
    unproven = None
    if detections is None and not all(results) and (by_rounding or _in_16_bits(original)):
        from surgery.verify.sensitivity import Moved, excuse

        results, unproven = excuse(cases, results, want, got, Moved(original), tolerances)
    reason = _judge(results, len(cases), detections, min_evidence, empty=empty) or unproven
    entries = tuple(r.to_dict() for r in results)
    return Verification("passed" if reason is None else "failed", reason, entries, tuple(notes))


def _in_16_bits(original: onnx.ModelProto | bytes | Path) -> bool:
    """Whether some of the model computes in float16 or bfloat16."""
    import onnx

    from surgery.graph.bfloat import has_16_bits

    if isinstance(original, Path):
        return has_16_bits(onnx.load(original, load_external_data=False))
    return has_16_bits(onnx.load_from_string(original) if isinstance(original, bytes) else original)


def _judge(
    results: Sequence[CaseResult],
    cases: int,
    detections: DetectionOutputs | None,
    min_evidence: int,
    empty: bool,
) -> str | None:
    """Why the verification failed, or None."""
    for result in results:
        if not result:
            return f"case {result.name}: {result.reason}"
    if not results or len(results) != cases:
        return f"only {len(results)} of {cases} cases were compared"
    evidence = sum(r.evidence for r in results)
    if detections is None:
        return None if evidence or empty else "all outputs are empty, so nothing was compared"
    if evidence == 0:
        return "no detections occurred, so nothing was compared"
    if evidence < min_evidence:
        return f"detections occurred in {evidence} of {cases} cases; {min_evidence} are needed as evidence"
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Polygraphy, whose logger prints to standard output, which belongs to the user.

    Nothing is redirected: the progress display writes to the same stream meanwhile. The severity is one above
    the highest, for what Polygraphy calls critical it prints and then raises.
    """
    from polygraphy.logger import G_LOGGER

    before = G_LOGGER.module_severity
    G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL + 1}
    try:
        yield
    finally:
        G_LOGGER.module_severity = before


def run_onnx(
    model: onnx.ModelProto | bytes | Path,
    feeds: Sequence[Arrays],
    what: str = "the model",
    notes: list[str] | None = None,
    say: Say | None = None,
    seconds: float | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """Outputs for each of the feeds; names that the model does not read are left out.

    Args:
        model: A model; a path if it has external weights.
        feeds: Values by name.
        what: Which model it is, for the error.
        notes: Gets what has to be said if the model did not run as it is.
        say: Told before each of the feeds.
        seconds: Time limit of each run; None takes that of :mod:`surgery.graph.deadline`.

    Raises:
        RunError: ONNX Runtime refuses the model or fails.
        EndlessError: a run did not end in time.
    """

    def told() -> Iterator[Arrays]:
        for number, feed in enumerate(feeds):
            if say is not None:
                say(f"running {what} on input {number + 1} of {len(feeds)}", number / len(feeds))
            yield feed

    with _quiet():
        from polygraphy.backend.onnxrt import OnnxrtRunner

        outputs = []
        try:
            # Made here: a session that fails inside the runner leaves it half activated.
            session = _session(model)
            note = note_on(session)
            if note and notes is not None:
                notes.append(f"{what}: {note}")
            names = [i.name for i in session.get_inputs()]
            if any(v.type in FOREIGN for v in (*session.get_inputs(), *session.get_outputs())):
                # The runner hands arrays over as they are.
                made = [o.name for o in session.get_outputs()]
                for feed in told():
                    values = run_session(session, made, {n: feed[n] for n in names if n in feed}, seconds)
                    outputs.append(dict(zip(made, values, strict=True)))
                return outputs
            with OnnxrtRunner(_Limited(session, seconds)) as runner:
                for feed in told():
                    given = {n: np.asarray(feed[n]) for n in names if n in feed}
                    # ONNX Runtime checks; the runner takes inputs of unknown rank for numbers.
                    found = runner.infer(given, check_inputs=False)
                    outputs.append({k: np.array(v) for k, v in found.items()})
        except EndlessError as error:
            error.where = what
            raise
        except Exception as error:  # ONNX Runtime and Polygraphy raise kinds of their own
            raise RunError(
                f"{what} in ONNX Runtime: {in_words(str(error)) or type(error).__name__}"
            ) from error
    return outputs


class _Limited:
    """A session as Polygraphy's runner uses one, whose runs have a time limit.

    Args:
        session: The session.
        seconds: Time limit of each run; None for the usual one.
    """

    def __init__(self, session: Any, seconds: float | None) -> None:
        self._session, self._seconds = session, seconds
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: Sequence[str] | None, feeds: Arrays) -> list[NDArray[Any]]:
        """Outputs of the given names, or all."""
        wanted = names if names is not None else [o.name for o in self.get_outputs()]
        return run_session(self._session, wanted, feeds, self._seconds)


def _session(model: onnx.ModelProto | bytes | Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # As written: optimizations differ from model to model, and so do roundings (5e-7 on an SSD).
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.inter_op_num_threads = 1
    options.enable_mem_reuse = False  # see open_session
    payload: str | bytes
    if isinstance(model, Path):
        payload = payload_of(model, options)
    else:
        payload = model if isinstance(model, bytes) else model.SerializeToString()
    options.intra_op_num_threads = _threads(payload)
    return open_session(payload, options)


def _threads(payload: str | bytes) -> int:
    content = payload if isinstance(payload, bytes) else Path(payload).read_bytes()
    return 1 if SPLIT_BY_THREADS in content else THREADS


def _compare(
    cases: Sequence[Case],
    want: Sequence[Arrays],
    got: Sequence[Arrays],
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    runner: str,
) -> list[CaseResult]:
    """Let Polygraphy's comparator go through the cases with our comparison."""
    with _quiet():
        from polygraphy.comparator import Comparator, IterationResult, RunResults

        runs = RunResults()
        runs.append(("original", [IterationResult(dict(w), runner_name="original") for w in want]))
        runs.append((runner, [IterationResult(dict(g), runner_name=runner) for g in got]))
        collected: list[CaseResult] = []

        def compare(one: Any, two: Any) -> dict[str, bool]:
            case = cases[len(collected)]
            shapes = {n: v.shape for n, v in case.feeds.items()}
            outcome = compare_case(
                case.name, shapes, dict(one.items()), dict(two.items()), detections, tolerances
            )
            collected.append(outcome)
            # An empty answer would count as agreement, so there is always one entry.
            return {"case": bool(outcome)}

        Comparator.compare_accuracy(runs, compare_func=compare)
    return collected
