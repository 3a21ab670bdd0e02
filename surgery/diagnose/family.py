"""What kind of network a graph is, by what is in it: inputs, outputs and operators, never by its file's name.

The guess chooses a pipeline for `auto`. It is a hint and never a condition: the pipelines of all kinds but two do the
same work and differ in what they check and document, so that a wrong guess costs nothing but a title.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from surgery.diagnose.facts import Facts, Kind

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
SCATTER = frozenset({"ScatterND", "ScatterElements", "Scatter"})
GOING_UP = frozenset({"Resize", "ConvTranspose", "Upsample", "DepthToSpace"})
CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv", "ConvTranspose"})
CROPPING = frozenset({"MaxRoiPool", "CropAndResize", "CropAndResizeDynamic"})
"""Operators that crop regions, beside all whose name ends with RoiAlign."""

WHOLE = frozenset({"int32", "int64", "uint8", "int8", "int16", "uint16"})
OBJECT_DETECTION_API = (
    "Postprocessor/",
    "BoxPredictor",
    "MultiscaleGridAnchorGenerator",
    "MultipleGridAnchorGenerator",
)
"""Scopes that the TensorFlow Object Detection API leaves in names."""

PLUGIN_DOMAINS = ("TRT.", "trt.plugins.", "mmdeploy.")
"""Domains that exporters give TensorRT's plugins."""

MANY_SWISHES = 8
"""x * sigmoid(x) so often, outside of attention, is a YOLO's activation."""

PASSING = frozenset(
    {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Slice", "Concat", "Clip", "Add"}
)


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


@dataclass(slots=True)
class Traits:
    """What the guess goes by.

    Attributes:
        facts: The model.
        operators: Nodes of each operator, bodies included; the domain only where it is not the default one.
        inputs: Kinds of the inputs that are no weights.
        outputs: Kinds of the outputs.
        attention: Products around a Softmax, and nodes of attention.
        convolutions: Convolutions by the number of axes they slide along.
        swishes: How often x is multiplied by sigmoid(x).
        pictures: Inputs that may be pictures.
        tokens: Inputs of whole numbers that index a table.
        tables: Rows of the tables that they index.
        going_up: Nodes that make maps larger: of what convolutions made, not of the picture or of constants.
        grown: Caches that get longer: inputs that are joined with something and handed out.
        kept: Caches that are read only.
    """

    facts: Facts
    operators: Mapping[str, int]
    inputs: dict[str, Kind] = field(default_factory=dict)
    outputs: dict[str, Kind] = field(default_factory=dict)
    attention: int = 0
    convolutions: Counter[int] = field(default_factory=Counter)
    swishes: int = 0
    pictures: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    tables: set[int] = field(default_factory=set)
    going_up: int = 0
    grown: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def count(self, *operators: str) -> int:
        """Nodes of these operators, whatever their domain."""
        return sum(n for op, n in self.operators.items() if op.rsplit(".", 1)[-1] in operators)

    def regions(self) -> int:
        """Nodes that crop regions."""
        named = {op: op.rsplit(".", 1)[-1].removesuffix("_TRT") for op in self.operators}
        return sum(
            n
            for op, n in self.operators.items()
            if named[op] in CROPPING or named[op].lower().endswith("roialign")
        )

    def ranks(self) -> set[int]:
        """Ranks of the outputs, as far as they are known."""
        return {len(k.dims) for k in self.outputs.values() if k.dims is not None}

    def boxes(self) -> list[str]:
        """Outputs that may be boxes: three axes, the last of four numbers."""
        return [
            n for n, k in self.outputs.items() if k.dims is not None and len(k.dims) == 3 and k.dims[-1] == 4
        ]


def family_of(facts: Facts, operators: Mapping[str, int], plugins: int) -> Family:
    """The first kind that fits.

    Args:
        facts: The model.
        operators: How many nodes of each operator there are, bodies included.
        plugins: Nodes that are plugins of TensorRT.
    """
    traits = traits_of(facts, operators)
    made_for_tensorrt = any(op.endswith("_TRT") or op.startswith(PLUGIN_DOMAINS) for op in operators)
    for kind in _KINDS:
        found = kind(traits)
        if found is not None:
            if (plugins or made_for_tensorrt) and found.pipeline != "ssd":
                return Family(found.name, found.because, "migrate")
            return found
    return Family("no kind that is known", "", "migrate" if plugins or made_for_tensorrt else "generic")


def family_of_model(model: onnx.ModelProto) -> Family:
    """The same for a model, its weights not needed."""
    import onnx

    from surgery.diagnose.facts import Facts

    facts = Facts(model)
    operators: Counter[str] = Counter()
    plugins = 0
    for place in facts.places:
        domain = place.node.domain
        plain = domain in ("", "ai.onnx")
        operators[place.node.op_type if plain else f"{domain}.{place.node.op_type}"] += 1
        plugins += (
            plain
            and not onnx.defs.has(place.node.op_type)
            and (domain, place.node.op_type) not in facts.functions
        )
    return family_of(facts, operators, plugins)


# -- what is looked at -----------------------------------------------------------------------------------


def traits_of(facts: Facts, operators: Mapping[str, int]) -> Traits:
    """What the guess goes by."""
    traits = Traits(facts, operators)
    graph = facts.model.graph
    for value in graph.input:
        if value.name not in facts.main.constants:
            traits.inputs[value.name] = facts.main.kind(value.name)
    for value in graph.output:
        traits.outputs[value.name] = facts.main.kind(value.name)
    traits.attention = traits.count(*ATTENTION) or _products_around_softmax(facts)
    for place in facts.places:
        if place.node.op_type in CONVOLUTIONS:
            position = {"QLinearConv": 3}.get(place.node.op_type, 1)
            # Damaged files, of which not every version of onnx complains, have fewer operands.
            kinds = (place.scope.kind(n) for n in (*place.node.input[position:][:1], *place.node.output[:1]))
            dims = next((k.dims for k in kinds if k.dims), None)
            traits.convolutions[len(dims) - 2 if dims else 2] += 1
    traits.going_up = _going_up(facts)
    traits.swishes = _swishes(facts) + traits.count("Swish", "QuickGelu", "HardSwish")
    for name, kind in traits.inputs.items():
        dims = kind.dims or ()
        if kind.dtype in WHOLE and len(dims) <= 3 and kind.dtype != "uint8":
            rows = _indexed(facts, name)
            if rows:
                traits.tokens.append(name)
                traits.tables |= rows
        elif len(dims) == 4 or (len(dims) == 3 and (dims[0] in (1, 3) or dims[-1] in (1, 3))):
            traits.pictures.append(name)
    _caches(facts, traits)
    traits.pictures = [n for n in traits.pictures if n not in traits.grown and n not in traits.kept]
    return traits


def _going_up(facts: Facts) -> int:
    from surgery.diagnose.facts import SHAPES

    reached: set[str] = set()
    found = 0
    for place in facts.places:
        node = place.node
        after = bool(reached.intersection(node.input[:1]))
        found += node.op_type == "ConvTranspose" or (node.op_type in GOING_UP and after)
        if node.op_type in CONVOLUTIONS or (node.op_type not in SHAPES and reached.intersection(node.input)):
            reached.update(o for o in node.output if o)
    return found


def _swishes(facts: Facts) -> int:
    gates = {
        p.node.output[0]: p.node.input[0]
        for p in facts.places
        if p.node.op_type in ("Sigmoid", "HardSigmoid") and p.node.input
    }
    return sum(
        any(gates.get(n) in p.node.input for n in p.node.input)
        for p in facts.places
        if p.node.op_type == "Mul"
    )


def _indexed(facts: Facts, name: str) -> set[int]:
    """Rows of the tables of weights that an input indexes."""
    reached, rows = {name}, set()
    for place in facts.places:
        node = place.node
        if node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in reached:
            dims = place.scope.kind(node.input[0]).dims
            if dims and len(dims) == 2 and isinstance(dims[0], int):
                rows.add(dims[0])
        elif node.op_type == "EmbedLayerNormalization" and reached & set(node.input):
            rows.add(0)
        elif node.op_type in PASSING and reached & set(node.input):
            reached.update(node.output)
    return rows


def _caches(facts: Facts, traits: Traits) -> None:
    """Inputs of four axes that are joined with something new and handed out, and those like them that are not."""
    outputs = set(traits.outputs)
    joined: dict[str, set[str]] = {}
    same: dict[str, str] = {}  # some exporters write a Concat of one operand, which joins nothing
    for place in facts.places:
        if place.node.op_type not in ("Concat", "Identity"):
            continue
        read = [same.get(n, n) for n in place.node.input]
        if len(read) == 1:
            same[place.node.output[0]] = read[0]
        for name in read if len(read) > 1 else ():
            joined.setdefault(name, set()).update(place.node.output)
    four = [n for n, k in traits.inputs.items() if len(k.dims or ()) == 4]
    if any(joined.get(n, set()) & outputs for n in four):
        traits.grown = [n for n in four if n in joined]
        traits.kept = [n for n in four if n not in joined]


def _products_around_softmax(facts: Facts) -> int:
    """Softmax nodes whose result goes, at most masked or dropped out, into a product of matrices."""
    products = ("MatMul", "Einsum", "FusedMatMul", "MatMulInteger", "QLinearMatMul")
    reached = {n for p in facts.places if p.node.op_type in products for n in p.node.input}
    through = (
        "Dropout", "Cast", "Where", "Identity", "Reshape", "Transpose", "QuantizeLinear", "DequantizeLinear",
        "DynamicQuantizeLinear",
    )  # fmt: skip
    for place in reversed(facts.places):
        if place.node.op_type in through and any(o in reached for o in place.node.output):
            reached.update(place.node.input[:2] if place.node.op_type == "Where" else place.node.input[:1])
            reached.update(place.node.input[2:3] if place.node.op_type == "Where" else ())
    return sum(p.node.op_type == "Softmax" and p.node.output[0] in reached for p in facts.places)


# -- kinds, the most telling first -------------------------------------------------------------------------


def _suppressing(traits: Traits) -> Family | None:
    found = {op: n for op, n in traits.operators.items() if op.rsplit(".", 1)[-1] in SUPPRESSION}
    if not found:
        return None
    told = ", ".join(f"{n} {op}" for op, n in found.items())
    if any(m in p.node.name for p in traits.facts.places for m in OBJECT_DETECTION_API):
        return Family("SSD of the TensorFlow Object Detection API", f"{told}; names of its scopes", "ssd")
    if regions := traits.regions():
        return Family(
            "detector with regions of interest", f"{told}; {regions} nodes that crop regions", "rcnn"
        )
    if traits.swishes >= min(MANY_SWISHES, max(traits.convolutions[2] // 2, 1)):
        return Family("YOLO with suppression in the graph", f"{told}; {traits.swishes} swishes", "yolo")
    softmax, sigmoid = traits.count("Softmax"), traits.count("Sigmoid")
    if softmax and sum(traits.convolutions.values()):
        return Family("SSD with suppression in the graph", f"{told}; scores by Softmax", "ssd-torch")
    if sigmoid and sum(traits.convolutions.values()):
        return Family("RetinaNet or EfficientDet", f"{told}; scores by Sigmoid", "retinanet")
    return Family("detector with suppression in the graph", told, "generic")


def _regions(traits: Traits) -> Family | None:
    regions = traits.regions()
    if regions:
        return Family("head on regions of interest", f"{regions} nodes that crop regions", "rcnn")
    return None


def _tabular(traits: Traits) -> Family | None:
    trees = [op for op in traits.operators if op.startswith("ai.onnx.ml.")]
    if trees:
        return Family("classic machine learning", ", ".join(trees), "tabular")
    ranks = {len(k.dims or ()) for k in traits.inputs.values()}
    layers = traits.count("Gemm", "MatMul")
    deep = traits.attention or traits.convolutions or traits.count(*RECURRENT) or traits.tokens
    if ranks == {2} and layers and not deep and not traits.count("Loop", "If", "Einsum"):
        return Family(
            "classic machine learning", "inputs of rows and columns, no layers on sequences", "tabular"
        )
    return None


def _cached(traits: Traits) -> Family | None:
    if not traits.grown or not traits.attention:
        return None
    told = f"{traits.attention} attentions, {len(traits.grown)} caches that grow"
    if traits.kept:
        return Family(
            "decoder of a sequence pair", f"{told}, {len(traits.kept)} that are only read", "seq2seq"
        )
    # Attention that joins nothing is to something else than the tokens before.
    if traits.attention >= len(traits.grown):
        return Family("decoder of a sequence pair", f"{told} for {traits.attention} attentions", "seq2seq")
    return Family("transformer decoder with a cache", told, "decoder")


def _detecting(traits: Traits) -> Family | None:
    """Transformers that give boxes."""
    boxes = traits.boxes()
    if not traits.attention or not traits.pictures or not boxes:
        return None
    samples = traits.count("GridSample")
    told = f"{traits.attention} attentions, boxes in {boxes[0]!r}" + (
        f", {samples} GridSample" if samples else ""
    )
    return Family("detection transformer", told, "detr")


def _yolo(traits: Traits) -> Family | None:
    if not traits.pictures or traits.swishes < MANY_SWISHES or 3 not in traits.ranks():
        return None
    if not traits.count("Concat") or not traits.convolutions[2]:
        return None
    return Family("YOLO", f"{traits.swishes} swishes, an output of rank 3", "yolo")


def _transformer_on_pictures(traits: Traits) -> Family | None:
    if not traits.attention or not traits.pictures or not traits.convolutions[2]:
        return None
    layers = traits.count("LayerNormalization", "SkipLayerNormalization")
    told = f"{traits.attention} attentions, {layers} normalizations of layers"
    if traits.tokens and set(traits.tokens) <= set(traits.inputs) and len(traits.inputs) > 1:
        if any(len(k.dims or ()) == 4 for k in traits.outputs.values()):
            return Family("segmentation with prompts", told, "segmentation")
        return Family("transformer on text and pictures", told, "encoder")
    groups = traits.count("InstanceNormalization", "GroupNormalization")
    if groups and traits.going_up and traits.convolutions[2] > 3 * traits.attention:
        convolutions = f"{traits.convolutions[2]} Conv, {traits.attention} attentions"
        return Family("U-Net with attention", f"{convolutions}, sizes go up again", "segmentation")
    if {4, 3} & traits.ranks() and traits.going_up:
        return Family("segmentation or depth transformer", f"{told}, sizes go up again", "segmentation")
    if 4 in traits.ranks():
        return Family("transformer from picture to map", f"{told}, an output of rank 4", "segmentation")
    if traits.count("TopK") and 3 in traits.ranks():
        return Family("detection transformer", f"{told}, chooses with TopK", "detr")
    return Family("vision transformer", told, "classification")


def _words(traits: Traits) -> list[str]:
    """Outputs with as many scores as there are tokens: the next token is predicted."""
    found = (
        n for n, k in traits.outputs.items() if k.dims and len(k.dims) == 3 and k.dims[-1] in traits.tables
    )
    return list(found) if traits.tokens else []


def _for_each_token(traits: Traits) -> bool:
    """Whether something comes out for each token, in place: what is computed along them is text, no sound."""
    inputs = {tuple(traits.inputs[n].dims or ()) for n in traits.tokens if n in traits.inputs}
    inputs = {dims for dims in inputs if len(dims) == 2 and None not in dims}
    return any(
        len(k.dims or ()) == 3 and tuple((k.dims or ())[:2]) in inputs for k in traits.outputs.values()
    )


def _sound(traits: Traits) -> Family | None:
    if _words(traits) or _for_each_token(traits):
        return None
    if spectral := [op for op in traits.operators if op in SPECTRAL]:
        return Family("speech or signal", ", ".join(spectral), "speech")
    lines = traits.convolutions[1]
    others = traits.convolutions[2] + traits.convolutions[3]
    if lines > others and not _state_space(traits):
        if traits.attention and traits.tokens and lines < traits.attention:
            return None
        return Family("speech or signal", f"{lines} Conv along one axis", "speech")
    return None


def _state_space(traits: Traits) -> Family | None:
    if traits.attention or not traits.tokens:
        return None
    told = traits.count("CumSum", "Scan", "Exp", "Softplus")
    if told and traits.convolutions[1]:
        return Family(
            "state-space model",
            f"{told} nodes of a running state, Conv along tokens, no attention",
            "state-space",
        )
    return None


def _transformer(traits: Traits) -> Family | None:
    if not traits.attention:
        return None
    layers = sum(n for op, n in traits.operators.items() if op.endswith("LayerNormalization"))
    told = f"{traits.attention} attentions, {layers} normalizations of layers"
    if len(traits.tokens) > 1 and _two_lengths(traits):
        return Family("transformer for a pair of sequences", f"{told}, tokens of two lengths", "seq2seq")
    words = _words(traits)
    if words:
        return Family("transformer decoder", f"{told}, a score for each token in {words[0]!r}", "decoder")
    numbers = all(len(k.dims or ()) in (2, 3) for k in traits.inputs.values())
    if not traits.tokens and len(traits.inputs) > 3 and numbers:
        return Family(
            "transformer on time series", f"{told}, {len(traits.inputs)} inputs of numbers", "time-series"
        )
    return Family("transformer", told, "encoder")


def _two_lengths(traits: Traits) -> bool:
    lengths = {
        k.dims[1] for n, k in traits.inputs.items() if n in traits.tokens and k.dims and len(k.dims) == 2
    }
    return len(lengths) > 1


def _recurrent(traits: Traits) -> Family | None:
    found = {op: n for op, n in traits.operators.items() if op in RECURRENT}
    if not found:
        return None
    told = ", ".join(f"{n} {op}" for op, n in found.items())
    if traits.convolutions[2] and traits.pictures and 2 in traits.ranks():
        return Family("classifier with recurrent layers", told, "classification")
    if traits.convolutions[2] and traits.pictures:
        return Family("text in pictures", f"{told} on {traits.convolutions[2]} Conv", "ocr")
    return Family("recurrent network", told, "time-series")


def _maxima(traits: Traits) -> Family | None:
    convolutions = traits.convolutions[2]
    if convolutions and traits.count("MaxPool") and traits.count("Equal") and traits.count("TopK"):
        return Family("detector of centres", f"{convolutions} Conv, maxima chosen with TopK", "centernet")
    return None


def _points(traits: Traits) -> Family | None:
    scattered = traits.count(*SCATTER)
    if scattered and traits.convolutions[2]:
        return Family(
            "points or pixels gathered on a grid", f"{scattered} nodes that scatter, then Conv", "pointcloud"
        )
    return None


def _convolutional(traits: Traits) -> Family | None:
    convolutions = sum(traits.convolutions.values())
    if not convolutions:
        return None
    ranks = traits.ranks()
    if traits.boxes():
        told = f"{convolutions} Conv, boxes in {traits.boxes()[0]!r}"
        return Family("detector without suppression", told, "retinanet")
    if traits.count("ArgMax") and traits.going_up:
        return Family(
            "segmentation", f"{convolutions} Conv, sizes go up again, the best class", "segmentation"
        )
    if 4 in ranks and len(traits.outputs) == 1 and traits.going_up:
        return Family(
            "image to image", f"{convolutions} Conv, sizes go up again, an output of rank 4", "segmentation"
        )
    if 4 in ranks and len(traits.outputs) > 1 and traits.going_up:
        return Family("detector of centres", f"{convolutions} Conv, {len(traits.outputs)} maps", "centernet")
    if ranks == {2}:
        return Family(
            "convolutional classifier", f"{convolutions} Conv, an output of rank 2", "classification"
        )
    if ranks == {3} and len(traits.outputs) == 2:
        return Family(
            "detector without suppression", f"{convolutions} Conv, two outputs of rank 3", "retinanet"
        )
    return Family("convolutional network", f"{convolutions} Conv", "generic")


_KINDS: tuple[Callable[[Traits], Family | None], ...] = (
    _suppressing, _regions, _cached, _detecting, _yolo, _transformer_on_pictures, _sound, _state_space, _transformer,
    _recurrent, _tabular, _maxima, _points, _convolutional,
)  # fmt: skip
