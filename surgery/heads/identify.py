"""Reading a detection head off its graph.

1. Find: which tensors hold boxes and scores. The operands of all NonMaxSuppression nodes are tapped on random
   input; the last tensors before them that contain exactly these values are the head's inputs.
2. Ask: the part of the graph behind these tensors is run on chosen boxes and scores, and its answers, compared
   with ONNX Runtime's own suppression, say which output is what and how results are clipped, pruned,
   limited and padded.

Proving what was read is the replacement's business (:mod:`surgery.heads.replace`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.errors import ConversionError, SurgeryError
from surgery.graph.convert import extract
from surgery.graph.cut import Cut, make_cut
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.taint import tainted_by
from surgery.graph.view import View, body_nodes
from surgery.heads import probes
from surgery.heads.nms_reference import NmsParameters, Selection, select
from surgery.heads.taps import OPERANDS, Tap, tap_nms

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

Role = Literal["count", "boxes", "scores", "classes", "anchors", "rows"]
Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class OutputRole:
    """What one output of the head is.

    Attributes:
        name: The tensor.
        role: count [B]; boxes [B, K, 4]; scores, classes, anchors [B, K]; rows [B, K, X] are rows of `source`.
        dtype: Numpy name.
        ndim: Rank; a count may be [B] or [B, 1].
        offset: What is added to class or anchor numbers.
        pad: Value in the rows beyond the count.
        source: For rows: the tensor [B, N, X] they are taken from.
    """

    name: str
    role: Role
    dtype: str
    ndim: int
    offset: int = 0
    pad: float = 0.0
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DetectionHead:
    """A post-processing as read off its graph.

    Attributes:
        boxes: Tensor of the decoded boxes, [B, N, 4] or [B, N, 1, 4].
        scores: Tensor of the scores that take part, [B, N, C].
        num_boxes: N.
        num_classes: C.
        parameters: Operands of the suppression.
        max_total: K, rows of the outputs.
        clip_window: Range that the first and second coordinate are clipped to after suppression.
        prune_empty: Whether boxes that clipping leaves without area are removed before the best K are taken.
        outputs: Roles of all outputs.
        cut: Nodes between boxes, scores and the outputs.
        fixed_inputs: Other inputs of the cut that depend on no image, with their value for one image.
        batch: Images per run where that is fixed, else None.
        boxes_ndim: Rank of `boxes`.
        nms_nodes: Names of the suppression nodes.
        row_widths: X of every tensor [B, N, X] that an output's rows are taken from.
    """

    boxes: str
    scores: str
    num_boxes: int
    num_classes: int
    parameters: NmsParameters
    max_total: int
    clip_window: tuple[float, float, float, float] | None
    prune_empty: bool
    outputs: tuple[OutputRole, ...]
    cut: Cut
    batch: int | None
    boxes_ndim: int
    nms_nodes: tuple[str, ...]
    row_widths: Mapping[str, int] = field(default_factory=dict)
    fixed_inputs: Mapping[str, Any] = field(default_factory=dict)

    def output(self, role: Role) -> OutputRole | None:
        """The output with that role, or None."""
        return next((o for o in self.outputs if o.role == role), None)


def refuse(message: str, *, cause: str | None = None, node: str | None = None) -> ConversionError:
    """The error for a head that is not of a form that is known here."""
    return ConversionError(
        message,
        code="head-not-recognised",
        where="substitute.detections",
        node=node,
        cause=cause,
        fix="point at the head by boundary tensors (cuts.NAME.inputs/outputs), or leave it out",
    )


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
    ask = _Asker(graph, view, inner, boxes, scores, values, fixed, free)
    head = _read_answers(ask, parameters, int(num_boxes), int(num_classes), seed)
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


class _Asker:
    """The part of the graph behind boxes and scores, as a function of them."""

    def __init__(
        self,
        graph: gs.Graph,
        view: View,
        cut: Cut,
        boxes: str,
        scores: str,
        values: Arrays,
        fixed: Sequence[str],
        free: Sequence[str],
    ) -> None:
        self.boxes, self.scores, self.cut = boxes, scores, cut
        self.values = values
        self.free = list(free)
        self.feeds: Arrays = {n: values[n] for n in (*fixed, *free)}
        names = [boxes, scores, *fixed, *free]
        self.batch = values[boxes].shape[0]
        model = extract(
            graph,
            cut.nodes(view),
            names,
            cut.outputs,
            shapes={
                **dict.fromkeys(cut.outputs),
                **{n: [None, *values[n].shape[1:]] for n in (boxes, scores)},
                **{n: list(values[n].shape) for n in (*fixed, *free)},
            },
            dtypes={n: values[n].dtype for n in names},
            name=cut.name,
        )
        try:
            self._evaluator = Evaluator(model)
        except EvaluationError as error:
            raise refuse("the head does not run on its own", cause=str(error)) from error

    def __call__(self, boxes: NDArray[Any], scores: NDArray[Any], **more: NDArray[Any]) -> Arrays:
        feeds = {
            **self.feeds,
            **more,
            self.boxes: probes.like(self.values[self.boxes], boxes),
            self.scores: scores,
        }
        try:
            return self._evaluator.run(feeds)
        except EvaluationError as error:
            raise refuse("the head does not run on probes", cause=str(error)) from error


@dataclass(slots=True)
class _Reading:
    max_total: int
    clip: tuple[float, float, float, float] | None
    prune: bool
    roles: list[OutputRole]


def _read_answers(
    ask: _Asker, parameters: NmsParameters, num_boxes: int, num_classes: int, seed: int
) -> _Reading:
    rng = np.random.default_rng(seed)
    answers = []
    names: dict[str, str] = {}
    for turn in range(ROUNDS):
        boxes, scores = probes.scattered(rng, ask.batch, num_boxes, num_classes)
        full = ask(boxes, scores)
        names = names or _name_outputs(full, scores, needed=turn == ROUNDS - 1)
        if not names:
            continue  # nothing was detected this time
        at = _locate(full[names["scores"]], scores)
        answers.append((boxes, scores, full, at))
        # One answer of a large head says everything; small heads keep few boxes, so more are asked for.
        pairs = _pairs([(a[2][names["boxes"]], a[0], a[3]) for a in answers])
        if len(pairs[0]) >= ENOUGH and len(_clipped_sides(*pairs)) in (0, 4):
            break
    boxes, scores, full, at = answers[-1]
    total = full[names["scores"]].shape[1]
    clip = _read_clip(*_pairs([(a[2][names["boxes"]], a[0], a[3]) for a in answers]))
    prune = _read_prune(
        [(a[2][names["scores"]], a[0], select(a[0], a[1], parameters)) for a in answers], clip
    )
    # The full answer may hold no padding; a nearly empty one does.
    kept = min(3, total - 1) if total > 1 else 1
    some_boxes, some_scores = probes.few(rng, ask.batch, num_boxes, num_classes, kept)
    some = ask(some_boxes, some_scores)
    return _Reading(total, clip, prune, _read_roles(ask, names, full, some, at, kept))


ROUNDS = 24
ENOUGH = 90
"""Detections after which a head has shown what it does with boxes; and the most probes spent on that."""


def _name_outputs(answer: Arrays, scores: NDArray[Any], *, needed: bool) -> dict[str, str]:
    """Which output holds scores, and which boxes; nothing if that cannot be seen and is not `needed`."""
    known = np.unique(scores)
    result: dict[str, str] = {}
    for name, value in answer.items():
        if value.dtype == np.float32 and value.ndim == 2 and "scores" not in result:
            place = np.searchsorted(known, value).clip(0, len(known) - 1)
            given = known[place] == value
            # Rows that hold no given score are padding, and padding is one value.
            if given.any() and len(np.unique(value[~given])) <= 1:
                result["scores"] = name
    for name, value in answer.items():
        wide = value.dtype == np.float32 and value.ndim == 3 and value.shape[2] == 4
        missing = "scores" in result and "boxes" not in result
        if wide and missing and value.shape[1] == answer[result["scores"]].shape[1]:
            result["boxes"] = name
    if "scores" not in result or "boxes" not in result:
        if not needed:
            return {}
        raise refuse(
            "no pair of outputs holds the scores [batch, K] and boxes [batch, K, 4] of the detections",
            cause="the scores are changed after suppression, or the outputs have another layout",
        )
    return result


def _locate(kept: NDArray[Any], scores: NDArray[Any]) -> list[list[tuple[int, int] | None]]:
    """For every output row the (box, class) it came from; scores are distinct within an image."""
    result = []
    for image in range(kept.shape[0]):
        flat = scores[image].reshape(-1)
        order = np.argsort(flat, kind="stable")
        place = np.searchsorted(flat[order], kept[image]).clip(0, flat.size - 1)
        rows: list[tuple[int, int] | None] = []
        for value, p in zip(kept[image], place, strict=True):
            index = int(order[p])
            rows.append(divmod(index, scores.shape[2]) if flat[index] == value else None)
        result.append(rows)
    return result


def _pairs(
    answers: Sequence[tuple[NDArray[Any], NDArray[Any], list[list[tuple[int, int] | None]]]],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Detected boxes as they came out and as they went in, [n, 4] each."""
    rows = [
        (out[i, k], boxes[i, row[0]])
        for out, boxes, at in answers
        for i, image in enumerate(at)
        for k, row in enumerate(image)
        if row is not None
    ]
    got = np.asarray([r[0] for r in rows], np.float32).reshape(-1, 4)
    return got, np.asarray([r[1] for r in rows], np.float32).reshape(-1, 4)


def _clipped_sides(got: NDArray[Any], want: NDArray[Any]) -> dict[tuple[int, int], float]:
    """Where boxes were clipped: (coordinate 0 or 1, -1 low or 1 high) to the border."""
    sides = {}
    for axis in (0, 1):
        one, two = got[:, axis::2], want[:, axis::2]
        if np.any(one > two):
            sides[axis, -1] = float(one[one > two].max())
        if np.any(one < two):
            sides[axis, 1] = float(one[one < two].min())
    return sides


def _read_clip(got: NDArray[Any], want: NDArray[Any]) -> tuple[float, float, float, float] | None:
    """The window that boxes are clipped to: low of both coordinates, then high; a free side is far away."""
    if got.size == 0:
        raise refuse("the head detects nothing on the probes")
    sides = _clipped_sides(got, want)
    if not sides:
        return None
    far = float(np.finfo(np.float32).max)
    low = [sides.get((axis, -1), -far) for axis in (0, 1)]
    high = [sides.get((axis, 1), far) for axis in (0, 1)]
    if not np.allclose(got, np.clip(want, low * 2, high * 2), rtol=0, atol=1e-6):
        raise refuse(
            "boxes are changed after suppression by more than clipping",
            cause="a change of coordinate frame that is not the identity, or another box format",
        )
    return low[0], low[1], high[0], high[1]


def _read_prune(
    answers: Sequence[tuple[NDArray[Any], NDArray[Any], Sequence[Selection]]],
    clip: tuple[float, float, float, float] | None,
) -> bool:
    """Whether boxes that clipping leaves without area are missing, from (scores out, boxes in, selections)."""
    if clip is None:
        return False
    pruned = present = 0
    for kept, boxes, expected in answers:
        for image, selection in enumerate(expected):
            known = {float(s) for s in kept[image]}
            full = all(float(s) in {float(x) for x in selection.scores} for s in kept[image])
            lowest = min(known) if full else -np.inf
            for anchor, score in zip(selection.anchors, selection.scores, strict=True):
                if float(score) < lowest:
                    continue
                y0, x0, y1, x1 = np.clip(boxes[image, anchor], [clip[0], clip[1]] * 2, [clip[2], clip[3]] * 2)
                if (y1 - y0) * (x1 - x0) <= 0:
                    pruned += float(score) not in known
                    present += float(score) in known
    if pruned and present:
        raise refuse("some boxes without area are kept and some are not")
    return pruned > 0


def _read_roles(
    ask: _Asker,
    names: Mapping[str, str],
    full: Arrays,
    some: Arrays,
    at: list[list[tuple[int, int] | None]],
    kept: int,
) -> list[OutputRole]:
    total = full[names["scores"]].shape[1]
    found = [(i, k, r) for i, rows in enumerate(at) for k, r in enumerate(rows) if r is not None]
    index = tuple(np.asarray([[i, k] for i, k, _ in found]).T)
    image = np.asarray([i for i, _, _ in found])
    anchors = np.asarray([r[0] for _, _, r in found])
    classes = np.asarray([r[1] for _, _, r in found])
    roles = []
    for name, value in full.items():
        dtype, ndim = value.dtype.name, value.ndim
        if name == names["boxes"] or name == names["scores"]:
            role: Role = "boxes" if name == names["boxes"] else "scores"
            roles.append(OutputRole(name, role, dtype, ndim, pad=_pad(some[name], kept, name)))
            continue
        if value.size == value.shape[0] and all(int(c) == kept for c in some[name].reshape(-1)):
            roles.append(OutputRole(name, "count", dtype, ndim))
            continue
        if value.ndim == 2 and value.shape[1] == total:
            numbers = value[index]
            for kind, want in (("classes", classes), ("anchors", anchors)):
                offset = numbers - want
                if np.all(offset == offset[0]):
                    pad = _pad(some[name], kept, name)
                    roles.append(OutputRole(name, kind, dtype, ndim, int(offset[0]), pad))  # type: ignore[arg-type]
                    break
            else:
                raise refuse(f"output {name!r} is neither classes nor box numbers")
            continue
        if value.ndim == 3 and value.shape[1] == total:
            for source in (*ask.free, ask.scores, ask.boxes):
                table = ask.feeds.get(source)
                if (
                    table is not None
                    and table.ndim == 3
                    and np.array_equal(table[image, anchors], value[index])
                ):
                    pad = _pad(some[name], kept, name)
                    roles.append(OutputRole(name, "rows", dtype, ndim, 0, pad, source))
                    break
            else:
                raise refuse(f"output {name!r} is not made of rows of a tensor before the suppression")
            continue
        raise refuse(f"output {name!r} of shape {list(value.shape)} has no known meaning")
    if not any(r.role == "count" for r in roles):
        raise refuse("no output tells the number of detections")
    return roles


def _pad(value: NDArray[Any], kept: int, name: str) -> float:
    tail = value[:, kept:]
    if tail.size == 0:
        return 0.0
    first = tail.reshape(-1)[0]
    if not np.all(tail == first):
        raise refuse(f"output {name!r} is not padded with one value")
    return float(first)
