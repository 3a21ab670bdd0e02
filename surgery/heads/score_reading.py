"""What happens to the scores before suppression: their conversion, and the class that is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import extract
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import View
from surgery.heads.head import DetectionHead

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

CONVERSIONS = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "log-softmax"}


def read_scores(graph: gs.Graph, head: DetectionHead, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Score conversion and background class of a head.

    Args:
        graph: Graph that holds the head.
        head: The head.
        feeds: One image for the graph's inputs.

    Returns:
        ``score_conversion`` (sigmoid, softmax, none), ``model_classes`` (columns of the converted scores) and
        ``background_class`` (the one column that is not suppressed; -1 if all are, None if that cannot be seen).
    """
    unknown: dict[str, Any] = {"score_conversion": "none", "model_classes": None, "background_class": None}
    view = View(graph)
    if head.scores not in view.producer:
        return unknown
    keys = sorted(view.ancestors([view.producer[head.scores]]), key=lambda k: view.order[k])
    last = next((k for k in reversed(keys) if view.nodes[k].op in CONVERSIONS), None)
    if last is None:
        return unknown
    converted = view.nodes[last].outputs[0].name
    names = list(dict.fromkeys([converted, head.scores]))
    model = extract(
        graph,
        [view.nodes[k] for k in keys],
        [t.name for t in graph.inputs],
        names,
        shapes=dict.fromkeys(names),
        name="scores",
    )
    try:
        values = Evaluator(model).run(feeds)
    except EvaluationError:
        return unknown
    before, after = values[converted], values[head.scores]
    if before.ndim != 3 or before.shape[1] != head.num_boxes:
        return unknown
    columns = {np.ascontiguousarray(before[0, :, c]).tobytes(): c for c in range(before.shape[2])}
    places = [columns.get(np.ascontiguousarray(after[0, :, c]).tobytes()) for c in range(after.shape[2])]
    left = sorted(set(range(before.shape[2])) - {p for p in places if p is not None})
    background: int | None = None
    if None not in places:
        background = -1 if not left else left[0] if len(left) == 1 else None
    return {
        "score_conversion": CONVERSIONS[view.nodes[last].op],
        "model_classes": int(before.shape[2]),
        "background_class": background,
    }
