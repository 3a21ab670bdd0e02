"""Shapes found by running: where inference gives up, two runs of different sizes say which dims stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.convert import extract
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.infer import is_static
from surgery.graph.view import View

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

SIZES = ((1, 320), (2, 704))
"""Batch, and size of further free dims, of the two runs: multiples of 64 that also differ in steps of 256 pixels,
which is as coarse as the feature maps of detectors get."""


def measure(
    graph: gs.Graph,
    tensors: Iterable[Any],
    complete: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> bool:
    """Find dims of tensors that inference does not, by running what is in front of them; in place.

    A dim that is the same for two batches and sizes is taken for a number. That is evidence, not proof: what is made
    of it has to be compared with the original at other sizes.

    Args:
        graph: The graph.
        tensors: Tensors of the graph.
        complete: Makes the model of the nodes in front runnable, where it is not; may raise ConversionError.

    Returns:
        Whether anything became better known.
    """
    view = View(graph)
    open_ones = [t for t in tensors if t.name in view.producer and not is_static(t.shape)]
    wanted = [t.name for t in open_ones]
    if not wanted:
        return False
    keys = view.ancestors({view.producer[n] for n in wanted})
    nodes = [view.nodes[k] for k in sorted(keys, key=lambda k: view.order[k])]
    read = {name for key in keys for name in view.uses(key)}
    inputs = [t for t in graph.inputs if t.name in read]
    if any(t.dtype is None or t.shape is None or _decides(t) for t in inputs):
        return False
    model = extract(graph, nodes, [t.name for t in inputs], wanted, shapes=dict.fromkeys(wanted))
    shapes: list[dict[str, tuple[int, ...]]] = []
    try:
        session = Evaluator(complete(model) if complete is not None else model, threads=1)
        for batch, size in SIZES:
            feeds = {t.name: _values(t, batch, size) for t in inputs}
            shapes.append({n: v.shape for n, v in session.run(feeds).items()})
    except (ConversionError, EvaluationError):
        return False
    free = next((t.shape[0] for t in inputs if t.shape and isinstance(t.shape[0], str)), None)
    batches = tuple(batch for batch, _ in SIZES)
    changed = False
    for tensor in open_ones:
        one, two = (s[tensor.name] for s in shapes)
        if len(one) != len(two):
            continue
        found = [a if a == b else free if (a, b) == batches else None for a, b in zip(one, two, strict=True)]
        if tensor.shape is not None and len(tensor.shape) == len(found):
            found = [f if f is not None else d for f, d in zip(found, tensor.shape, strict=True)]
        changed |= found != tensor.shape
        tensor.shape = found
    return changed


def _decides(tensor: Any) -> bool:
    """Whether values of an input may be sizes or axes: then runs on a few values show nothing."""
    return np.dtype(tensor.dtype).kind in "iu" and len(tensor.shape) < 2


def _values(tensor: Any, batch: int, size: int) -> np.ndarray[Any, Any]:
    shape = [d if isinstance(d, int) else size if axis else batch for axis, d in enumerate(tensor.shape)]
    return np.ones(shape, np.dtype(tensor.dtype))
