"""Reading the box coder and the anchors of a head: what it makes of chosen box encodings tells both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import extract
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import View
from surgery.heads.head import DetectionHead

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Decoding:
    """A centre-size box coder, as the TensorFlow Object Detection API's FasterRcnnBoxCoder.

    ``cy = v0 * t0 * ha + cya; cx = v1 * t1 * wa + cxa; h = exp(v2 * t2) * ha; w = exp(v3 * t3) * wa``.

    Attributes:
        encodings: Tensor of the encodings (t0..t3), [B, N, 4] or [B, N, 1, 4].
        anchors: [N, 4] float32, (ymin, xmin, ymax, xmax), what zero encodings decode to.
        variances: (v0, v1, v2, v3).
        max_error: Largest difference between this formula and the graph on random encodings.
        keys: Keys of the decoding nodes in the view they were read in.
    """

    encodings: str
    anchors: NDArray[np.float32]
    variances: tuple[float, float, float, float]
    max_error: float
    keys: tuple[int, ...]


def read_decoding(graph: gs.Graph, head: DetectionHead, feeds: Mapping[str, Any]) -> Decoding | str:
    """The coder in front of the head's boxes, or the reason why it is not one that is known.

    Args:
        graph: The graph that holds the head.
        head: The head.
        feeds: One image for the graph's inputs, from which shapes are taken.
    """
    view = View(graph)
    if head.boxes not in view.producer:
        return "the boxes are an input of the network"
    start = _encodings(graph, view, head, feeds)
    if start is None:
        return "no tensor [batch, boxes, 4] before the decoded boxes"
    name, shape = start
    behind = view.descendants(view.consumers.get(name, ()))
    keys = sorted(view.ancestors([view.producer[head.boxes]]) & behind, key=lambda k: view.order[k])
    others = {
        n
        for k in keys
        for n in view.uses(k)
        if n != name and n in view.producer and view.producer[n] not in keys
    }
    sideways = view.ancestors(view.producer[n] for n in others)
    nodes = sorted(set(keys) | sideways, key=lambda k: view.order[k])
    inputs = [t.name for t in graph.inputs if any(t.name in view.uses(k) for k in nodes)]
    model = extract(
        graph,
        [view.nodes[k] for k in nodes],
        [*inputs, name],
        [head.boxes],
        shapes={name: list(shape), head.boxes: None},
        dtypes={name: np.dtype(np.float32), head.boxes: np.dtype(np.float32)},
        name="decode",
    )
    try:
        run = Evaluator(model)

        def decode(values: NDArray[Any]) -> NDArray[np.float64]:
            out = run.run({**{n: feeds[n] for n in inputs}, name: values.reshape(shape).astype(np.float32)})
            return np.asarray(out[head.boxes][0].reshape(-1, 4), np.float64)

        return _fit(decode, name, shape, tuple(keys))
    except EvaluationError as error:
        return f"the decoding does not run on its own: {error}"


def _fit(decode: Any, name: str, shape: tuple[int, ...], keys: tuple[int, ...]) -> Decoding | str:
    count = int(np.prod(shape)) // 4
    zero = np.zeros((count, 4))
    anchors = decode(zero)
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    if not (np.all(height > 0) and np.all(width > 0)):
        return "zero encodings do not decode to boxes (ymin, xmin, ymax, xmax)"
    variances = []
    for axis, side in enumerate((height, width)):
        unit = zero.copy()
        unit[:, axis] = 1.0
        moved = decode(unit) - anchors
        shift = (moved[:, axis] + moved[:, axis + 2]) / 2 / side
        variances.append(float(np.median(shift)))
    for axis, side in enumerate((height, width)):
        unit = zero.copy()
        unit[:, axis + 2] = 1.0
        grown = decode(unit)
        variances.append(float(np.median(np.log((grown[:, axis + 2] - grown[:, axis]) / side))))
    variances = [float(f"{v:.5g}") for v in variances]
    random = np.random.default_rng(0).normal(0, 1, (count, 4))
    got = decode(random)
    cy, cx = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    y, x = cy + variances[0] * random[:, 0] * height, cx + variances[1] * random[:, 1] * width
    h, w = height * np.exp(variances[2] * random[:, 2]), width * np.exp(variances[3] * random[:, 3])
    want = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=1)
    error = float(np.max(np.abs(got - want)))
    if error > 1e-4:
        return f"boxes are not decoded by centre and size: the formula differs by {error:g}"
    v = variances
    return Decoding(name, anchors.astype(np.float32), (v[0], v[1], v[2], v[3]), error, keys)


def _encodings(
    graph: gs.Graph, view: View, head: DetectionHead, feeds: Mapping[str, Any]
) -> tuple[str, tuple[int, ...]] | None:
    """The earliest tensor [B, N, 4] or [B, N, 1, 4] that the decoded boxes depend on."""
    before = sorted(view.ancestors([view.producer[head.boxes]]), key=lambda k: view.order[k])
    nodes = [view.nodes[k] for k in before]
    names = [t.name for n in nodes for t in n.outputs if t.name and len(list(n.subgraphs())) == 0]
    model = extract(
        graph, nodes, [t.name for t in graph.inputs], names, shapes=dict.fromkeys(names), name="before"
    )
    try:
        values = Evaluator(model).run(feeds)
    except EvaluationError:
        return None
    for name in names:
        value = values[name]
        wide = value.ndim == 3 or (value.ndim == 4 and value.shape[2] == 1)
        if wide and value.shape[1] == head.num_boxes and value.shape[-1] == 4 and value.dtype == np.float32:
            return name, value.shape
    return None
