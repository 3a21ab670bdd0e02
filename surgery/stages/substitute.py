"""substitute: parts of the graph become plugin nodes, or what the target computes natively in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from surgery.errors import ConversionError
from surgery.pipeline import StageResult, State
from surgery.report import CutEntry, Edit

if TYPE_CHECKING:
    from surgery.heads.head import DetectionHead
    from surgery.heads.prove import Proof
    from surgery.heads.replace import Replacement

FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=FORBID)
class Detections:
    """A detection head to replace.

    Everything about it is read off the graph. The thresholds given here override the graph's; the model that
    verification compares with is then the original with these values.

    Attributes:
        cut: Name of the cut that holds the head.
        plugin: Plugin to use; ``auto`` takes the best that the target ships, else the native form.
        score_threshold: Score that a detection has to exceed.
        iou_threshold: IoU above which a box is suppressed.
        max_per_class: Most detections of one class.
    """

    cut: str
    plugin: str = "auto"
    score_threshold: float | None = None
    iou_threshold: float | None = Field(default=None, ge=0, le=1)
    max_per_class: int | None = Field(default=None, gt=0)


@dataclass(frozen=True, config=FORBID)
class Anchors:
    """Anchors (prior boxes) of the head.

    Attributes:
        emit: ``constant``: as the graph has them, folded. ``plugin``: GridAnchor_TRT or GridAnchorRect_TRT
            where the target has it and it makes the same boxes.
    """

    emit: Literal["constant", "plugin"] = "constant"


@dataclass(frozen=True, config=FORBID)
class Substitute:
    """Put plugin nodes or native forms in the place of parts of the graph.

    Attributes:
        detections: Detection head to replace, or nothing.
        anchors: What to do with the head's anchors.
        manifest: Manifest of Polygraphy's `plugin match` to apply, relative to this file or to the working directory.
        plugins: Names of plugins to put back where the graph computes them in standard operators and the target
            ships them.
        recognise: Look for all plugins of the registry, but for those that are a single standard operator.
    """

    name: ClassVar[str] = "substitute"
    detections: Detections | None = None
    manifest: str | None = None
    plugins: tuple[str, ...] = ()
    recognise: bool = False
    anchors: Anchors = Field(default_factory=Anchors)

    def run(self, state: State) -> StageResult:
        """Apply in place, then make the portable model and the one for the target's parser."""
        texts = []
        if self.manifest is not None:
            from surgery.stages.manifest import put_in

            texts += put_in(state, self.manifest)
        if self.plugins or self.recognise:
            from surgery.stages.recognised import put_back_plugins

            texts += put_back_plugins(state, self.plugins, everything=self.recognise)
        if self.detections is not None:
            head = self._detections(state, self.detections)
            if head is not None:
                texts.append(
                    f"{len(head.nms_nodes)} NonMaxSuppression nodes over {head.num_boxes} boxes x "
                    f"{head.num_classes} classes -> {state.report.edits[-1].details['plugin']}"
                )
                texts.extend(self._anchors(state, head))
        finish(state)
        return StageResult(bool(texts), "; ".join(texts) or "nothing to do")

    def _detections(self, state: State, options: Detections) -> DetectionHead | None:
        from surgery.graph.editor import Editor
        from surgery.heads.identify import identify
        from surgery.heads.overrides import override_nms
        from surgery.heads.score_reading import read_scores
        from surgery.stages.cuts import find_cut
        from surgery.verify.detections import DetectionPolicy
        from surgery.verify.runner import DetectionOutputs

        values = {
            "score_threshold": options.score_threshold,
            "iou_threshold": options.iou_threshold,
            "max_per_class": options.max_per_class,
        }
        given = {k: v for k, v in values.items() if v is not None}
        if given:
            override_nms(state, given)
        found = find_cut(state, options.cut)
        if found is None:
            return None
        view, cut = found
        state.record_cut(
            CutEntry(cut.name, tuple(n.name for n in cut.nodes(view)), cut.inputs, cut.outputs, cut.found_by)
        )
        state.say("reading the detection head")
        head = identify(state.graph, cut, _sample(state), seed=state.options.seed)
        _fix_shapes(state, head)
        replacement, proof = self._choose(state, head, options.plugin)
        converted = read_scores(state.graph, head, _sample(state))
        before = tuple(view.nodes[k].name for k in head.cut.keys)
        editor = Editor(state.graph, state.provenance)
        made = editor.replace(
            head.cut, replacement.model, rule="detection-head", prefix=f"surgery/{cut.name}"
        )
        roles = {o.role: o.name for o in head.outputs}
        state.detections = DetectionOutputs(
            boxes=roles["boxes"],
            scores=roles["scores"],
            classes=roles.get("classes"),
            count=roles.get("count"),
            extras=tuple(o.name for o in head.outputs if o.role in ("anchors", "rows")),
            policy=DetectionPolicy(iou_threshold=head.parameters.iou_threshold, capacity=head.max_total),
        )
        assumptions = list(replacement.assumptions)
        assumptions += [f"differs from the graph on probes of kind {k!r}" for k in proof.differs]
        state.report.edits.append(
            Edit(
                "detection-head",
                "plugin" if not replacement.exact else "native",
                before,
                tuple(made),
                "passed",
                proof.max_abs_error,
                tuple(assumptions),
                _details(head, replacement.plugin, replacement.attributes, proof.cases, given, converted),
            )
        )
        return head

    def _choose(self, state: State, head: DetectionHead, wanted: str) -> tuple[Replacement, Proof]:
        """The best form that is proven to compute what the head computes."""
        from surgery.heads.prove import prove
        from surgery.heads.replace import NATIVE, PREFERRED, build, candidate_plugins
        from surgery.plugins.attach import attach_bodies

        names = candidate_plugins(state.target, state.registry) if wanted == "auto" else [wanted]
        if wanted not in ("auto", NATIVE, *PREFERRED):
            raise ConversionError(
                f"a detection head cannot become {wanted!r}",
                code="unknown-head-plugin",
                where="substitute.detections.plugin",
                fix=f"one of: auto, {', '.join((*PREFERRED, NATIVE))}",
            )
        for name in names:
            replacement = build(head, name, state.registry, _opset(state))
            state.say(f"proving {name} against the graph")
            runnable = attach_bodies(replacement.model, state.registry)
            try:
                return replacement, prove(
                    state.graph, head, replacement, runnable, seed=state.options.seed, say=state.say
                )
            except ConversionError as error:
                if error.code != "unproven" or name == names[-1]:
                    raise
                state.warn(f"{name} is not used for this head: {error.message}")
        raise ConversionError("no form of the head is left", code="unproven")

    def _anchors(self, state: State, head: DetectionHead) -> list[str]:
        from surgery.heads.anchors import place_anchors

        return place_anchors(state, head, _sample(state), emit=self.anchors.emit)


def _details(
    head: DetectionHead,
    plugin: str,
    attributes: dict[str, Any],
    cases: int,
    overridden: dict[str, Any],
    converted: dict[str, Any],
) -> dict[str, Any]:
    p = head.parameters
    return {
        "plugin": plugin,
        "attributes": attributes,
        "boxes": head.boxes,
        "scores": head.scores,
        "num_boxes": head.num_boxes,
        "num_classes": head.num_classes,
        "score_threshold": p.score_threshold,
        "iou_threshold": p.iou_threshold,
        "max_per_class": p.max_per_class,
        "max_total": head.max_total,
        **converted,
        "clip_window": head.clip_window,
        "prune_empty": head.prune_empty,
        "outputs": {
            o.name: {"role": o.role, "offset": o.offset, "pad": o.pad, "source": o.source}
            for o in head.outputs
        },
        "overridden": overridden,
        "proof_cases": cases,
    }


def _opset(state: State) -> int:
    from surgery.graph.body import MAX_OPSET, MIN_OPSET

    opset = int(state.graph.opset)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ConversionError(
            f"the model uses opset {opset}; detection heads can be written for {MIN_OPSET} to {MAX_OPSET}",
            code="opset",
            fix=f"export the model with opset {max(MIN_OPSET, 17)}",
        )
    return opset


def _sample(state: State, size: int = 320) -> dict[str, Any]:
    """One image for each input of the graph; free dims are the batch (1) or a middling size."""
    rng = np.random.default_rng(state.options.seed)
    feeds = {}
    for tensor in state.graph.inputs:
        shape = [
            d if isinstance(d, int) and d > 0 else 1 if axis == 0 else size
            for axis, d in enumerate(tensor.shape or ())
        ]
        dtype = np.dtype(tensor.dtype)
        value = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.uniform(-1, 1, shape)
        feeds[tensor.name] = value.astype(dtype)
    return feeds


def _fix_shapes(state: State, head: DetectionHead) -> None:
    """Write the number of boxes into the shapes of the head's inputs, if it is the same for every image.

    Raises:
        ConversionError: the number of boxes depends on the size of the image.
    """
    from surgery.graph.convert import extract
    from surgery.graph.evaluate import EvaluationError, Evaluator
    from surgery.graph.view import View

    free = [
        t.name for t in state.graph.inputs if any(not isinstance(d, int) for d in list(t.shape or ())[1:])
    ]
    names = [head.boxes, head.scores, *(n for n in head.row_widths if n != head.scores)]
    made = [n for n in names if n in View(state.graph).producer]
    if free and head.scores in made:
        view = View(state.graph)
        keys = sorted(
            view.ancestors(view.producer[n] for n in names if n in view.producer), key=lambda k: view.order[k]
        )
        model = extract(
            state.graph,
            [view.nodes[k] for k in keys],
            [t.name for t in state.graph.inputs],
            made,
            shapes=dict.fromkeys(made),
        )
        try:
            other = Evaluator(model).run(_sample(state, size=416))
        except EvaluationError as error:
            raise ConversionError(
                "the network does not run at a second image size", code="image-size", cause=str(error)
            ) from error
        if other[head.scores].shape[1] != head.num_boxes:
            raise ConversionError(
                f"the number of boxes depends on the image size ({head.num_boxes} and "
                f"{other[head.scores].shape[1]}); a detection head needs a fixed number",
                code="image-size",
                where="substitute.detections",
                fix="export the model for one image size",
            )
    images = [t.shape[0] for t in state.graph.inputs if t.shape]
    batch = head.batch if head.batch is not None else images[0] if images else None
    tensors = state.graph.tensors()
    tails = {
        head.boxes: [head.num_boxes, 1, 4] if head.boxes_ndim == 4 else [head.num_boxes, 4],
        head.scores: [head.num_boxes, head.num_classes],
        **{n: [head.num_boxes, w] for n, w in head.row_widths.items() if n != head.scores},
    }
    for name, tail in tails.items():
        tensors[name].shape = [batch, *tail]
        tensors[name].dtype = np.dtype(np.float32)


def finish(state: State) -> None:
    """Export: the portable model with bodies, and the model for the target's parser."""
    from surgery.graph.convert import export_graph
    from surgery.graph.infer import infer_types
    from surgery.plugins.attach import attach_bodies, target_model
    from surgery.stages.as_given import as_given
    from surgery.stages.kept import kept_plugins
    from surgery.stages.outputs import set_apart

    set_apart(state)
    infer_types(state.graph)
    exported = export_graph(state.graph, state.header, provenance=state.provenance)
    state.portable = attach_bodies(exported, state.registry)
    made = target_model(
        state.portable,
        state.registry,
        state.target,
        per_sample=state.per_sample_plugins,
        keep=kept_plugins(state.config),
    )
    state.target_model = as_given(state, made) or made
    state.report.model = state.portable
