"""Asking a detection head what it does with boxes and scores.

The part of the graph behind them is run on chosen values, and its answers, compared with ONNX Runtime's own
suppression, say which output is what and how results are clipped, pruned, limited and padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import extract
from surgery.graph.cut import Cut
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import View
from surgery.heads import probes
from surgery.heads.head import Arrays, OutputRole, Role, refuse
from surgery.heads.nms_reference import NmsParameters, Selection, select

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray


class Asker:
    """The part of the graph behind boxes and scores, as a function of them.

    Boxes are [B, N, 4] float32, scores [B, N, C] float32; the answer holds each output of the cut by name.
    """

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
        """The outputs for these boxes and scores, and other values of the free inputs if given."""
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
class Reading:
    """What the answers say.

    Attributes:
        max_total: Rows of the results of one image.
        clip: What the boxes are clipped to: least y, least x, largest y, largest x.
        prune: Whether boxes that clipping leaves empty are dropped.
        roles: What each output is.
    """

    max_total: int
    clip: tuple[float, float, float, float] | None
    prune: bool
    roles: list[OutputRole]


def read_answers(
    ask: Asker, parameters: NmsParameters, num_boxes: int, num_classes: int, seed: int
) -> Reading:
    """Run the head on scattered boxes until they have shown everything, and read what it did with them.

    Raises:
        ConversionError: the head does not run, or its answers are of no known form.
    """
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
    return Reading(total, clip, prune, _read_roles(ask, names, full, some, at, kept))


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
    ask: Asker,
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
