"""What kind of network a graph is, by what is in it; a hint for choosing a pipeline, never a condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.diagnose.facts import Facts

SUPPRESSION = frozenset(
    {
        "NonMaxSuppression", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT", "NMS_TRT", "EfficientNMS_TRT",
        "EfficientNMS_ONNX_TRT", "EfficientNMS_Explicit_TF_TRT", "EfficientNMS_Implicit_TF_TRT",
        "TRTBatchedNMS", "MMCVMultiLevelRotatedNMS", "DetectionOutput",
    }
)  # fmt: skip
"""Operators that drop boxes which overlap."""

ATTENTION = frozenset(
    {"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedMultiHeadAttention", "LinearAttention"}
)
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
SPECTRAL = frozenset({"STFT", "DFT", "MelWeightMatrix"})
OBJECT_DETECTION_API = (
    "Postprocessor/",
    "BoxPredictor",
    "MultiscaleGridAnchorGenerator",
    "MultipleGridAnchorGenerator",
)
"""Scopes that the TensorFlow Object Detection API leaves in names."""


@dataclass(frozen=True, slots=True)
class Family:
    """A guess.

    Attributes:
        name: In a word or two.
        because: What in the graph speaks for it.
        pipeline: A shipped pipeline to begin with.
    """

    name: str
    because: str
    pipeline: str


def family_of(facts: Facts, operators: Mapping[str, int], plugins: int) -> Family:
    """The first kind that fits.

    Args:
        facts: The model.
        operators: How many nodes of each operator there are, bodies included.
        plugins: Nodes that are plugins of TensorRT.
    """
    pipeline = "migrate" if plugins else "generic"
    suppression = {op: n for op, n in operators.items() if op.rsplit(".", 1)[-1] in SUPPRESSION}
    if suppression:
        told = ", ".join(f"{n} {op}" for op, n in suppression.items())
        scopes = any(m in p.node.name for p in facts.places for m in OBJECT_DETECTION_API)
        if scopes:
            return Family("SSD of the TensorFlow Object Detection API", f"{told}; names of its scopes", "ssd")
        return Family("detector with suppression in the graph", told, pipeline)
    layers = sum(n for op, n in operators.items() if op.endswith("LayerNormalization"))
    attention = sum(n for op, n in operators.items() if op.rsplit(".", 1)[-1] in ATTENTION)
    attention = attention or _products_around_softmax(facts)
    convolutions = operators.get("Conv", 0)
    if attention:
        what = "vision transformer" if convolutions and _images(facts) else "transformer"
        caches = [v.name for v in facts.model.graph.input if "past" in v.name or "cache" in v.name]
        if caches:
            return Family(
                "transformer decoder with a cache", f"{attention} attentions, {len(caches)} caches", pipeline
            )
        return Family(what, f"{attention} attentions, {layers} normalizations of layers", pipeline)
    trees = {op: n for op, n in operators.items() if op.startswith("ai.onnx.ml.")}
    if trees:
        return Family("classic machine learning", ", ".join(trees), pipeline)
    spectral = [op for op in operators if op in SPECTRAL]
    if spectral:
        return Family("speech or signal", ", ".join(spectral), pipeline)
    recurrent = {op: n for op, n in operators.items() if op in RECURRENT}
    if recurrent:
        return Family("recurrent network", ", ".join(f"{n} {op}" for op, n in recurrent.items()), pipeline)
    if convolutions:
        ranks = {len(facts.main.kind(o.name).dims or ()) for o in facts.model.graph.output}
        if 4 in ranks and ("Resize" in operators or "ConvTranspose" in operators or "Upsample" in operators):
            return Family(
                "image to image", f"{convolutions} Conv, sizes go up again, an output of rank 4", pipeline
            )
        if ranks == {2}:
            return Family("convolutional classifier", f"{convolutions} Conv, an output of rank 2", pipeline)
        return Family("convolutional network", f"{convolutions} Conv", pipeline)
    return Family("no kind that is known", "", pipeline)


def _images(facts: Facts) -> bool:
    return any(len(facts.main.kind(v.name).dims or ()) == 4 for v in facts.model.graph.input)


def _products_around_softmax(facts: Facts) -> int:
    """Softmax nodes whose result goes, at most masked or dropped out, into a MatMul."""
    reached = {name for p in facts.places if p.node.op_type == "MatMul" for name in p.node.input[:1]}
    through = ("Dropout", "Cast", "Where", "Identity")
    for place in reversed(facts.places):
        if place.node.op_type in through and any(o in reached for o in place.node.output):
            reached.update(place.node.input)
    return sum(p.node.op_type == "Softmax" and p.node.output[0] in reached for p in facts.places)
