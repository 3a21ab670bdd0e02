"""Proving a replacement: the head before and after, in ONNX Runtime, on inputs of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.convert import extract
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import View
from surgery.heads import probes
from surgery.heads.head import DetectionHead
from surgery.heads.replace import Replacement

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class Proof:
    """Largest difference over all inputs, and the kinds of input on which a plugin form differed."""

    max_abs_error: float
    differs: tuple[str, ...]
    cases: int


def prove(
    graph: gs.Graph,
    head: DetectionHead,
    replacement: Replacement,
    runnable: onnx.ModelProto,
    *,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> Proof:
    """Compare the head with its replacement.

    An exact form must agree on all outputs, padding included, on every input. A plugin form must agree
    where no limit of its kernel is touched; kinds of input on which it differs are reported.

    Args:
        graph: Graph that holds the head.
        head: The head as read.
        replacement: What goes in its place.
        runnable: The replacement with bodies attached.
        seed: Seed of the inputs.
        say: Told before each input, for this takes long where there are many boxes and classes.

    Raises:
        ConversionError: they differ where they must not.
    """
    before = _original(graph, head)
    try:
        after = Evaluator(runnable)
    except EvaluationError as error:
        raise ConversionError(
            f"the {replacement.plugin} form of the head does not load", code="unproven", cause=str(error)
        ) from error
    rng = np.random.default_rng(seed + 1)
    worst, differs, cases = 0.0, [], 0
    for batch in (1, 2) if head.batch is None else (head.batch,):
        for kind, (boxes, scores) in probes.families(rng, batch, head.num_boxes, head.num_classes).items():
            rows = {
                n: rng.normal(size=(batch, head.num_boxes, w)).astype(np.float32)
                for n, w in head.row_widths.items()
                if n not in (head.boxes, head.scores)
            }
            feeds = {head.boxes: boxes, head.scores: scores, **rows}
            if head.boxes_ndim == 4:
                feeds[head.boxes] = boxes[:, :, None]
            if say is not None:
                say(f"proving {replacement.plugin} against the graph: {kind} boxes, batch {batch}")
            want, got = _run(before, head, feeds, batch), _run(after, head, feeds, batch)
            cases += 1
            apart = _difference(want, got)
            if apart == 0.0:
                continue
            strict = replacement.exact or kind in ("scattered", "few", "none")
            if strict and apart > 1e-6:
                raise ConversionError(
                    f"what was read off the head is not what it computes: {replacement.plugin} differs by "
                    f"{apart:g} on {kind} boxes",
                    code="unproven",
                    where="substitute.detections",
                    fix="the graph is left as it was; please report the model",
                )
            worst = max(worst, apart if np.isfinite(apart) and strict else 0.0)
            if not strict:
                differs.append(kind)
    return Proof(worst, tuple(dict.fromkeys(differs)), cases)


def _original(graph: gs.Graph, head: DetectionHead) -> Evaluator:
    view = View(graph)
    names = list(head.cut.inputs)
    free = {n: [None, head.num_boxes, w] for n, w in head.row_widths.items()}
    boxes = [None, head.num_boxes, 1, 4] if head.boxes_ndim == 4 else [None, head.num_boxes, 4]
    shapes: dict[str, Any] = {
        **dict.fromkeys(head.cut.outputs),
        **free,
        head.boxes: boxes,
        head.scores: [None, head.num_boxes, head.num_classes],
        **{n: [None, *v.shape[1:]] for n, v in head.fixed_inputs.items()},
    }
    dtypes: dict[str, Any] = {n: np.dtype(np.float32) for n in names}
    dtypes.update({n: v.dtype for n, v in head.fixed_inputs.items()})
    return Evaluator(
        extract(graph, head.cut.nodes(view), names, head.cut.outputs, shapes=shapes, dtypes=dtypes)
    )


def _run(evaluator: Evaluator, head: DetectionHead, feeds: Mapping[str, Any], batch: int) -> Arrays:
    fixed = {
        n: np.repeat(v, batch, axis=0) if v.ndim and v.shape[0] == 1 else v
        for n, v in head.fixed_inputs.items()
    }
    try:
        return evaluator.run({**fixed, **feeds}, [o.name for o in head.outputs])
    except EvaluationError as error:
        raise ConversionError(
            "the detection head cannot be run to prove its replacement", code="unproven", cause=str(error)
        ) from error


def _difference(want: Arrays, got: Arrays) -> float:
    worst = 0.0
    for name, value in want.items():
        other = got[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            return float("inf")
        if value.size:
            worst = max(worst, float(np.max(np.abs(value.astype(np.float64) - other.astype(np.float64)))))
    return worst
