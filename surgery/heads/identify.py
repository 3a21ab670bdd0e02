"""Reading a detection head off its graph.

Which tensors hold boxes and scores is observed: the operands of all NonMaxSuppression nodes are tapped on random
input; the last tensors before them that contain exactly these values are the head's inputs. What the part behind
them does is asked (:mod:`surgery.heads.asking`), and proving what was read is the replacement's business
(:mod:`surgery.heads.replace`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import SurgeryError
from surgery.graph.convert import extract
from surgery.graph.cut import Cut, make_cut
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.taint import tainted_by
from surgery.graph.view import View, body_nodes
from surgery.heads.asking import Asker, read_answers
from surgery.heads.head import Arrays, DetectionHead, refuse
from surgery.heads.nms_reference import NmsParameters
from surgery.heads.taps import OPERANDS, Tap, tap_nms

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray


def identify(graph: gs.Graph, cut: Cut, feeds: Mapping[str, NDArray[Any]], *, seed: int) -> DetectionHead:
    """Read the head in `cut`.

    Args:
        graph: The graph; `cut` belongs to its present view.
        feeds: Values for the graph's inputs, one image, from which the shapes inside are taken.
        cut: Cut that holds the suppression.
        seed: Seed of the probes.

    Raises:
        ConversionError: there is no suppression in the cut, or it is of no known form; the cause says which
            property was not found.
    """
    view = View(graph)
    values, taps = _observe(graph, cut, feeds, seed)
    operands = _operands(taps, values)
    parameters = _parameters(taps, operands)
    holders = [k for k in cut.keys if _holds_nms(view.nodes[k])]
    order = _candidates(view, cut, holders)
    outputs = _dependent_outputs(view, cut, holders)
    boxes, scores, inner, fixed, free = _boundary(
        view,
        cut,
        _find_boxes(order, values, [o["boxes"] for o in operands]),
        _find_scores(order, values, [o["scores"] for o in operands]),
        outputs,
        values,
    )
    num_boxes, num_classes = values[scores].shape[1:]
    ask = Asker(graph, view, inner, boxes, scores, values, fixed, free)
    head = read_answers(ask, parameters, int(num_boxes), int(num_classes), seed)
    return DetectionHead(
        boxes=boxes,
        scores=scores,
        num_boxes=int(num_boxes),
        num_classes=int(num_classes),
        parameters=parameters,
        max_total=head.max_total,
        clip_window=head.clip,
        prune_empty=head.prune,
        outputs=tuple(head.roles),
        cut=inner,
        batch=_static_batch(graph, boxes),
        boxes_ndim=values[boxes].ndim,
        nms_nodes=tuple(t.node for t in taps),
        row_widths={n: int(values[n].shape[2]) for n in (*free, scores) if values[n].ndim == 3},
        fixed_inputs={n: values[n] for n in fixed},
    )


def _observe(
    graph: gs.Graph, cut: Cut, feeds: Mapping[str, NDArray[Any]], seed: int
) -> tuple[Arrays, list[Tap]]:
    """Run the graph up to the cut, then the tapped cut on random values of the same shapes."""
    view = View(graph)
    before = view.ancestors(view.producer[n] for n in cut.inputs if n in view.producer)
    nodes = [view.nodes[k] for k in sorted(before, key=lambda k: view.order[k])]
    names = [n for n in cut.inputs if n in view.producer]
    given = {n: feeds[n] for n in cut.inputs if n in feeds}
    try:
        if names:
            front = extract(graph, nodes, [t.name for t in graph.inputs], names)
            given.update(Evaluator(front).run(feeds))
        rng = np.random.default_rng(seed)
        tainted = tainted_by(view, [t.name for t in graph.inputs])
        for name, value in given.items():
            if value.dtype.kind == "f" and name in tainted and value.ndim >= 2:
                given[name] = rng.normal(0, 1.0, value.shape).astype(value.dtype)
        inner = [view.nodes[k] for k in cut.keys]
        exposed = list(dict.fromkeys([*cut.outputs, *(t.name for n in inner for t in n.outputs if t.name)]))
        model = extract(
            graph,
            inner,
            given,
            exposed,
            shapes={**dict.fromkeys(exposed), **{n: list(v.shape) for n, v in given.items()}},
            dtypes={n: v.dtype for n, v in given.items()},
            name=cut.name,
        )
        tapped, taps = tap_nms(model)
        if not taps:
            raise refuse(
                "there is no NonMaxSuppression in the cut", cause=f"cut {cut.name!r} ({cut.found_by})"
            )
        result = Evaluator(tapped).run(given)
    except EvaluationError as error:
        raise refuse("the head does not run on its own", cause=str(error)) from error
    return {**given, **result}, taps


def _operands(taps: Sequence[Tap], values: Arrays) -> list[dict[str, NDArray[Any]]]:
    found = []
    for tap in taps:
        row = {}
        for name, tensor in zip(OPERANDS, tap.operands, strict=True):
            if tensor is None:
                continue
            value = values[tensor]
            for _ in range(tap.depth):
                if value.shape[0] == 0:
                    raise refuse(
                        "a loop around a NonMaxSuppression does not run for one image", node=tap.node
                    )
                value = value[0]
            row[name] = value
        found.append(row)
    return found


def _parameters(taps: Sequence[Tap], operands: Sequence[Mapping[str, NDArray[Any]]]) -> NmsParameters:
    seen = set()
    for tap, row in zip(taps, operands, strict=True):
        limit = row.get("max_output_boxes_per_class")
        iou = row.get("iou_threshold")
        score = row.get("score_threshold")
        seen.add(
            NmsParameters(
                int(limit.reshape(-1)[0]) if limit is not None else 0,
                float(iou.reshape(-1)[0]) if iou is not None else 0.0,
                float(score.reshape(-1)[0]) if score is not None else -np.inf,
                tap.center_point_box,
            )
        )
    if len(seen) != 1:
        raise refuse(
            "the classes are suppressed by different rules",
            cause=f"{len(seen)} different sets of limits and thresholds",
        )
    parameters = seen.pop()
    if parameters.center_point_box:
        raise refuse("boxes in centre form are not supported here yet", node=taps[0].node)
    return parameters


def _holds_nms(node: gs.Node) -> bool:
    return node.op == "NonMaxSuppression" or any(c.op == "NonMaxSuppression" for c in body_nodes(node))


def _candidates(view: View, cut: Cut, holders: Sequence[int]) -> list[str]:
    """Tensors of the cut that the suppression depends on, latest first; the cut's inputs last."""
    inside = set(cut.keys)
    before = (view.ancestors(holders) & inside) - set(holders)
    made = [
        t.name for k in sorted(before, key=lambda k: view.order[k]) for t in view.nodes[k].outputs if t.name
    ]
    return [*reversed(made), *cut.inputs]


def _find_boxes(order: Sequence[str], values: Arrays, wanted: Sequence[NDArray[Any]]) -> list[str]:
    """Tensors [B, N, 4] or [B, N, 1, 4] that hold the boxes of every suppression, latest first."""
    rows = {w[i].tobytes() for w in wanted for i in range(w.shape[0])}
    found = []
    for name in order:
        value = values.get(name)
        if value is None or value.dtype != np.float32 or value.ndim not in (3, 4) or value.shape[-1] != 4:
            continue
        if value.ndim == 4 and value.shape[2] != 1:
            continue
        if rows <= {value[i].tobytes() for i in range(value.shape[0])}:
            found.append(name)
    if not found:
        raise refuse(
            "the boxes of the suppression are not one tensor [batch, boxes, 4]",
            cause="class-specific boxes, or boxes that are changed between decoding and suppression",
        )
    return found


def _find_scores(order: Sequence[str], values: Arrays, wanted: Sequence[NDArray[Any]]) -> list[str]:
    """Tensors [B, N, C] of whose columns each is suppressed exactly once, in order, latest first."""
    rows = [r.tobytes() for w in wanted for r in np.ascontiguousarray(w).reshape(-1, w.shape[-1])]
    found, partial = [], None
    for name in order:
        value = values.get(name)
        if (
            value is None
            or value.dtype != np.float32
            or value.ndim != 3
            or value.shape[1] != wanted[0].shape[-1]
        ):
            continue
        by_class = np.ascontiguousarray(value.transpose(0, 2, 1))
        columns = {column.tobytes() for image in by_class for column in image}
        if not set(rows) <= columns:
            continue
        if len(set(rows)) == value.shape[0] * value.shape[2]:
            found.append(name)
        else:
            partial = name
    if found:
        return found
    if partial is not None:
        raise refuse(
            "not every class of the scores takes part in the suppression",
            cause=f"{len(set(rows))} of {values[partial].shape[2]} columns of {partial!r} are used",
        )
    raise refuse(
        "the scores of the suppression are not one tensor [batch, boxes, classes]",
        cause="scores are changed between conversion and suppression (soft-NMS, class-agnostic maximum)",
    )


def _boundary(
    view: View,
    cut: Cut,
    boxes: Sequence[str],
    scores: Sequence[str],
    outputs: Sequence[str],
    values: Arrays,
) -> tuple[str, str, Cut, list[str], list[str]]:
    """The latest pair of tensors that everything behind the suppression goes through."""
    reason: SurgeryError | None = None
    for one in boxes:
        for other in scores:
            try:
                inner = _behind(view, cut, (one, other), outputs, values)
                fixed, free = _other_inputs(view, inner, values, (one, other))
            except SurgeryError as error:  # not convex, or it depends on something else: try an earlier pair
                reason = reason or error
                continue
            return one, other, inner, fixed, free
    if reason is None:  # both lists are non-empty, so one round ran
        raise refuse("the head has no boundary")
    raise reason


def _dependent_outputs(view: View, cut: Cut, holders: Sequence[int]) -> list[str]:
    after = view.descendants(holders)
    outputs = [n for n in cut.outputs if view.producer[n] in after]
    if not outputs:
        raise refuse("no output of the cut depends on the suppression")
    return outputs


def _behind(view: View, within: Cut, known: tuple[str, str], outputs: Sequence[str], values: Arrays) -> Cut:
    """The nodes between boxes, scores, other tensors with a row per box, and the outputs.

    What depends on none of these stays outside and becomes an input of the cut.
    """
    count = values[known[1]].shape[1]
    made_from_them = view.descendants(k for t in known for k in view.consumers.get(t, ()))
    rows = {
        n
        for n, v in values.items()
        if v.ndim == 3
        and v.shape[1] == count
        and v.dtype == np.float32
        and view.producer.get(n) not in made_from_them
    }
    stop = {*known, *rows, *within.inputs}
    inside = set(within.keys)
    keys: set[int] = set()
    stack = [view.producer[t] for t in outputs]
    while stack:
        key = stack.pop()
        if key in keys or key not in inside:
            continue
        keys.add(key)
        stack.extend(view.producer[t] for t in view.uses(key) if t not in stop and t in view.producer)
    after = view.descendants(k for t in (*known, *rows) for k in view.consumers.get(t, ()))
    cut = make_cut(view, within.name, keys & after, within.found_by)
    return Cut(cut.name, cut.keys, cut.inputs, tuple(outputs), cut.found_by)


def _other_inputs(
    view: View, cut: Cut, values: Arrays, known: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """Other inputs of the cut: those that no image changes, and those that hold one row per box."""
    tainted = tainted_by(view, [t.name for t in view.graph.inputs])
    fixed, free = [], []
    for name in cut.inputs:
        if name in known:
            continue
        value = values.get(name)
        if name not in tainted:
            fixed.append(name)
        elif (
            value is not None
            and value.dtype == np.float32
            and value.ndim >= 2
            and value.shape[1] == values[known[1]].shape[1]
        ):
            free.append(name)
        else:
            raise refuse(
                f"the head also depends on {name!r}",
                cause="neither boxes nor scores, and different for every image",
            )
    return fixed, free


def _static_batch(graph: gs.Graph, boxes: str) -> int | None:
    tensor = graph.tensors().get(boxes)
    images = [t for t in graph.inputs if t.shape]
    if images and all(isinstance(t.shape[0], int) for t in images):
        return int(images[0].shape[0])
    dim = tensor.shape[0] if tensor is not None and tensor.shape else None
    return dim if isinstance(dim, int) and dim > 0 else None
