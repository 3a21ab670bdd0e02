"""Small models, one of each family, of nothing but onnx and numpy: `python models/build.py FOLDER [PIPELINE...]`.

They have the form that exporters give such networks (what is joined to what, where suppression sits, which lengths
are free), with random weights and a few channels, so that every pipeline can be tried where the real exports are not.
The same call gives the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
F32, I64, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
Dims = Sequence[int | str]


class Net:
    """A graph that is written down operator by operator; values are names."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._domains = {"": OPSET}

    def input(self, name: str, dims: Dims, kind: int = F32) -> str:
        """An input; names in `dims` are free."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(dims)))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """A vector of whole numbers: a shape, axes."""
        return self.const(values, np.int64)

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """Random numbers that keep what they are multiplied with in size."""
        spread = scale or 1 / np.sqrt(max(1, np.prod(shape[1:])))
        return self.const(self._rng.normal(0, spread, shape))

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; its output, or the tuple of them."""
        names = [f"{kind.lower()}{len(self._nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        label = f"{kind}_{len(self._nodes)}"
        node = helper.make_node(kind, inputs, names, name=label, domain=domain, **attributes)
        self._nodes.append(node)
        self._domains.setdefault(domain, 1)
        return names[0] if outputs == 1 else tuple(names)

    def conv(self, x: str, inside: int, out: int, size: int = 3, stride: int = 1, axes: int = 2) -> str:
        """A convolution along so many axes, with a bias."""
        pads = [size // 2] * (2 * axes)
        w, b = self.weight(out, inside, *[size] * axes), self.weight(out, scale=0.1)
        return self.op("Conv", x, w, b, kernel_shape=[size] * axes, strides=[stride] * axes, pads=pads)

    def swish(self, x: str) -> str:
        """Swish: x times its sigmoid."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def linear(self, x: str, inside: int, out: int) -> str:
        """A product with weights, and a bias."""
        w = self.op("MatMul", x, self.const(self._rng.normal(0, 1 / np.sqrt(inside), (inside, out))))
        return self.op("Add", w, self.weight(out, scale=0.1))

    def norm(self, x: str, size: int) -> str:
        """A normalization of the last axis."""
        return self.op(
            "LayerNormalization", x, self.const(np.ones(size)), self.const(np.zeros(size)), axis=-1
        )

    def heads(self, x: str, heads: int, size: int) -> str:
        """[batch, tokens, heads * size] as [batch, heads, tokens, size]."""
        apart = self.op("Reshape", x, self.ints(0, 0, heads, size))
        return self.op("Transpose", apart, perm=[0, 2, 1, 3])

    def attention(self, q: str, k: str, v: str, heads: int, size: int, mask: str | None = None) -> str:
        """Attention of tensors [batch, heads, tokens, size]; the mask is added to the scores."""
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.const(size**-0.5))
        if mask is not None:
            scores = self.op("Add", scores, mask)
        found = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.op(
            "Reshape", self.op("Transpose", found, perm=[0, 2, 1, 3]), self.ints(0, 0, heads * size)
        )

    def block(self, x: str, size: int, other: str | None = None, mask: str | None = None) -> str:
        """A transformer's layer: attention to itself or to other tokens, and a network for each token."""
        parts = [self.heads(self.linear(t, size, size), 2, size // 2) for t in (x, other or x, other or x)]
        seen = self.attention(*parts, heads=2, size=size // 2, mask=mask)
        x = self.norm(self.op("Add", x, self.linear(seen, size, size)), size)
        more = self.linear(self.op("Relu", self.linear(x, size, 2 * size)), 2 * size, size)
        return self.norm(self.op("Add", x, more), size)

    def padding(self, mask: str) -> str:
        """What is added to scores for a mask [batch, tokens] of ones and zeros."""
        wide = self.op("Unsqueeze", self.op("Cast", mask, to=F32), self.ints(1, 2))
        return self.op("Mul", self.op("Sub", self.const(1.0), wide), self.const(-10000.0))

    def tokens(self, ids: str, words: int, size: int) -> str:
        """Rows of a table."""
        return self.op("Gather", self.weight(words, size, scale=1.0), ids)

    def done(self, **outputs: tuple[str, Dims] | tuple[str, Dims, int]) -> onnx.ModelProto:
        """The model with outputs by name: the value, its dims, its type."""
        values = []
        for name, (value, dims, *kind) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"out_{name}"))
            values.append(helper.make_tensor_value_info(name, kind[0] if kind else F32, list(dims)))
        graph = helper.make_graph(self._nodes, self.name, self._inputs, values, self._weights)
        imports = [helper.make_opsetid(d, v) for d, v in self._domains.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="models/build.py")


def classification() -> onnx.ModelProto:
    """A convolutional classifier with channels last, as from Keras, and a free batch."""
    n = Net("classification")
    x = n.op("Transpose", n.input("image", ["N", 32, 32, 3]), perm=[0, 3, 1, 2])
    for inside, out in ((3, 8), (8, 16)):
        x = n.conv(x, inside, out, stride=2)
        mean = [n.const(np.zeros(out)), n.const(np.ones(out))]
        x = n.op(
            "Relu", n.op("BatchNormalization", x, n.const(np.ones(out)), n.weight(out, scale=0.1), *mean)
        )
    x = n.op("Flatten", n.op("GlobalAveragePool", x))
    return n.done(classes=(n.op("Softmax", n.op("Gemm", x, n.weight(16, 10), n.weight(10))), ["N", 10]))


def segmentation() -> onnx.ModelProto:
    """A small U-Net with Resize and a skip connection; the best class of each pixel."""
    n = Net("segmentation")
    first = n.op("Relu", n.conv(n.input("image", ["N", 3, 32, 48]), 3, 8))
    low = n.op("Relu", n.conv(n.op("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 8, 8))
    up = n.op(
        "Resize", low, "", n.const([1, 1, 2, 2]), mode="linear", coordinate_transformation_mode="half_pixel"
    )
    logits = n.conv(n.op("Concat", first, up, axis=1), 16, 5)
    return n.done(mask=(n.op("ArgMax", logits, axis=1, keepdims=0), ["N", 32, 48], I64))


def encoder() -> onnx.ModelProto:
    """BERT's form: ids and a mask of any length, two layers, and the state of the first token."""
    n = Net("encoder")
    ids, mask = n.input("input_ids", ["batch", "seq"], I64), n.input("attention_mask", ["batch", "seq"], I64)
    place = n.op("Slice", n.weight(64, 16, scale=0.3), n.ints(0), _length(n, ids), n.ints(0))
    x, added = n.norm(n.op("Add", n.tokens(ids, 50, 16), place), 16), n.padding(mask)
    for _ in range(2):
        x = n.block(x, 16, mask=added)
    pooled = n.op("Tanh", n.linear(n.op("Gather", x, n.const(0, np.int64), axis=1), 16, 16))
    return n.done(hidden=(x, ["batch", "seq", 16]), pooled=(pooled, ["batch", 16]))


def _length(n: Net, x: str, axis: int = 1) -> str:
    return str(n.op("Slice", n.op("Shape", x), n.ints(axis), n.ints(axis + 1)))


def decoder() -> onnx.ModelProto:
    """A step of a language model whose caches come in and go out longer."""
    n = Net("decoder")
    ids = n.input("input_ids", ["batch", "new"], I64)
    past = [n.input(f"past_{k}", ["batch", 2, "past", 8]) for k in ("key", "value")]
    x = n.tokens(ids, 50, 16)
    q, *made = (n.heads(n.linear(x, 16, 16), 2, 8) for _ in range(3))
    key, value = (n.op("Concat", old, new, axis=2) for old, new in zip(past, made, strict=True))
    x = n.norm(n.op("Add", x, n.linear(n.attention(q, key, value, 2, 8), 16, 16)), 16)
    present: Dims = ["batch", 2, "total", 8]
    return n.done(
        logits=(n.linear(x, 16, 50), ["batch", "new", 50]),
        present_key=(key, present),
        present_value=(value, present),
    )


def seq2seq() -> onnx.ModelProto:
    """Two sequences of tokens of different lengths; the second looks at the first."""
    n = Net("seq2seq")
    source, target = (
        n.input("input_ids", ["batch", "source"], I64),
        n.input("decoder_ids", ["batch", "target"], I64),
    )
    read = n.block(n.tokens(source, 40, 16), 16)
    x = n.block(n.tokens(target, 40, 16), 16)
    x = n.block(x, 16, other=read)
    return n.done(logits=(n.linear(x, 16, 40), ["batch", "target", 40]))


def detr() -> onnx.ModelProto:
    """Queries that look at a picture's features; a class and a box for each."""
    n = Net("detr")
    x = n.op("Relu", n.conv(n.input("pixels", ["batch", 3, 32, 32]), 3, 16, stride=4))
    x = n.op("Transpose", n.op("Reshape", x, n.ints(0, 16, 64)), perm=[0, 2, 1])
    size = n.op("Concat", n.op("Slice", n.op("Shape", x), n.ints(0), n.ints(1)), n.ints(10, 16), axis=0)
    queries = n.op("Expand", n.weight(1, 10, 16, scale=1.0), size)
    x = n.block(queries, 16, other=n.block(x, 16))
    boxes = n.op("Sigmoid", n.linear(x, 16, 4))
    return n.done(logits=(n.linear(x, 16, 6), ["batch", 10, 6]), pred_boxes=(boxes, ["batch", 10, 4]))


def yolo() -> onnx.ModelProto:
    """Two scales and an end-to-end head: the best rows by TopK, as YOLOv10 and v26 have it."""
    n = Net("yolo")
    x = n.swish(n.conv(n.input("images", [1, 3, 64, 64]), 3, 8, stride=4))
    rows = []
    for stride in (1, 2):
        for _ in range(2):
            x = n.swish(n.conv(x, 8, 8, stride=1))
        x = n.swish(n.conv(x, 8, 8, stride=stride))
        out = n.conv(n.swish(n.conv(x, 8, 8)), 8, 4 + 3, size=1)
        rows.append(n.op("Reshape", out, n.ints(1, 7, -1)))
    found = n.op("Transpose", n.op("Concat", *rows, axis=2), perm=[0, 2, 1])
    boxes, scores = n.op("Split", found, n.ints(4, 3), outputs=2, axis=2)
    scores = n.op("Sigmoid", scores)
    best = n.op("ReduceMax", scores, axes=[2], keepdims=0)
    top, at = n.op("TopK", best, n.ints(20), outputs=2, axis=1)
    wide = n.op("Expand", n.op("Unsqueeze", at, n.ints(2)), n.ints(1, 20, 4))
    kept = n.op("GatherElements", boxes, wide, axis=1)
    label = n.op("GatherElements", n.op("ArgMax", scores, axis=2, keepdims=0), at, axis=1)
    columns = [n.op("Unsqueeze", v, n.ints(2)) for v in (top, n.op("Cast", label, to=F32))]
    return n.done(output0=(n.op("Concat", kept, *columns, axis=2), [1, 20, 6]))


def _suppressed(name: str, score: Callable[[Net, str], str]) -> onnx.ModelProto:
    """A detector with anchors, decoding and NonMaxSuppression in the graph; boxes, scores, labels of what is kept."""
    n = Net(name)
    x = n.op("Relu", n.conv(n.input("image", [1, 3, 32, 32]), 3, 8, stride=4))
    cells = 64
    deltas = n.op("Transpose", n.op("Reshape", n.conv(x, 8, 4), n.ints(1, 4, cells)), perm=[0, 2, 1])
    logits = n.op("Transpose", n.op("Reshape", n.conv(x, 8, 4), n.ints(1, 4, cells)), perm=[0, 2, 1])
    y, x_at = np.meshgrid(np.arange(8) * 4 + 2, np.arange(8) * 4 + 2, indexing="ij")
    middle = n.const(np.stack([y, x_at], -1).reshape(1, cells, 2))
    shift, grow = n.op("Split", deltas, n.ints(2, 2), outputs=2, axis=2)
    centre = n.op("Add", middle, n.op("Mul", shift, n.const(3.0)))
    half = n.op("Mul", n.op("Exp", grow), n.const(5.0))
    boxes = n.op("Concat", n.op("Sub", centre, half), n.op("Add", centre, half), axis=2)
    scores = n.op("Transpose", score(n, logits), perm=[0, 2, 1])
    limits = n.const(5, np.int64), n.const(0.5), n.const(0.2)
    chosen = n.op("NonMaxSuppression", boxes, scores, *(n.op("Identity", v) for v in limits))
    label, at = (n.op("Gather", chosen, n.const(c, np.int64), axis=1) for c in (1, 2))
    pair = n.op("Concat", *(n.op("Unsqueeze", v, n.ints(1)) for v in (label, at)), axis=1)
    flat = n.op("Squeeze", scores, n.ints(0))
    return n.done(
        boxes=(n.op("Gather", n.op("Squeeze", boxes, n.ints(0)), at, axis=0), ["found", 4]),
        scores=(n.op("GatherND", flat, pair), ["found"]),
        labels=(label, ["found"], I64),
    )


def ssd_torch() -> onnx.ModelProto:
    """SSD as PyTorch exports it: scores by Softmax, the background left out of the suppression."""

    def score(n: Net, logits: str) -> str:
        return str(n.op("Slice", n.op("Softmax", logits, axis=-1), n.ints(1), n.ints(4), n.ints(2)))

    return _suppressed("ssd-torch", score)


def retinanet() -> onnx.ModelProto:
    """RetinaNet's form: scores by Sigmoid, each class on its own."""
    return _suppressed("retinanet", lambda n, logits: str(n.op("Sigmoid", logits)))


def centernet() -> onnx.ModelProto:
    """A map of scores, its maxima by MaxPool and Equal, and what was predicted at the best of them."""
    n = Net("centernet")
    x = n.op("Relu", n.conv(n.input("image", ["N", 3, 32, 32]), 3, 8, stride=2))
    heat, size = n.op("Sigmoid", n.conv(x, 8, 2)), n.conv(x, 8, 2)
    high = n.op("MaxPool", heat, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    kept = n.op("Mul", heat, n.op("Cast", n.op("Equal", heat, high), to=F32))
    scores, at = n.op("TopK", n.op("Reshape", kept, n.ints(0, 512)), n.ints(10), outputs=2, axis=1)
    place = n.op("Unsqueeze", n.op("Mod", at, n.const(256, np.int64)), n.ints(1))
    shape = n.op("Concat", n.op("Slice", n.op("Shape", at), n.ints(0), n.ints(1)), n.ints(2, 10), axis=0)
    sizes = n.op(
        "GatherElements", n.op("Reshape", size, n.ints(0, 2, 256)), n.op("Expand", place, shape), axis=2
    )
    return n.done(scores=(scores, ["N", 10]), places=(at, ["N", 10], I64), sizes=(sizes, ["N", 2, 10]))


def rcnn() -> onnx.ModelProto:
    """The second stage: regions are cropped from features, and each gets a class and a box."""
    n = Net("rcnn")
    x = n.op("Relu", n.conv(n.input("image", [1, 3, 64, 64]), 3, 8, stride=4))
    regions = n.op("Mul", n.op("Sigmoid", n.input("regions", [6, 4])), n.const(32.0))
    low, more = n.op("Split", regions, n.ints(2, 2), outputs=2, axis=1)
    rois = n.op("Concat", low, n.op("Add", low, more), axis=1)
    cut = n.op(
        "RoiAlign",
        x,
        rois,
        n.ints(*[0] * 6),
        output_height=3,
        output_width=3,
        sampling_ratio=2,
        spatial_scale=0.25,
    )
    flat = n.op("Flatten", cut)
    classes = n.op("Softmax", n.op("Gemm", flat, n.weight(72, 5), n.weight(5)), axis=-1)
    return n.done(
        classes=(classes, [6, 5]), boxes=(n.op("Gemm", flat, n.weight(72, 20), n.weight(20)), [6, 20])
    )


def speech() -> onnx.ModelProto:
    """A spectrum by STFT, its logarithm, and convolutions along time."""
    n = Net("speech")
    wave = n.op("Unsqueeze", n.input("wave", ["N", 400]), n.ints(2))
    window = n.const(np.hanning(64))
    step, length = n.const(32, np.int64), n.const(64, np.int64)
    spectrum = n.op("STFT", wave, step, window, length, onesided=1)
    power = n.op("ReduceSum", n.op("Mul", spectrum, spectrum), n.ints(3), keepdims=0)
    x = n.op("Log", n.op("Add", power, n.const(1.0)))
    x = n.op("Transpose", x, perm=[0, 2, 1])
    for inside, out in ((33, 16), (16, 12)):
        x = n.op("Relu", n.conv(x, inside, out, axes=1))
    return n.done(logits=(n.op("Transpose", x, perm=[0, 2, 1]), ["N", 11, 12]))


def ocr() -> onnx.ModelProto:
    """CRNN's form: convolutions squeeze the height, an LSTM in both directions reads along the width."""
    n = Net("ocr")
    x = n.op("Relu", n.conv(n.input("line", ["N", 1, 8, 32]), 1, 8))
    x = n.op("Relu", n.conv(n.op("MaxPool", x, kernel_shape=[8, 2], strides=[8, 2]), 8, 8))
    x = n.op("Transpose", n.op("Squeeze", x, n.ints(2)), perm=[2, 0, 1])
    weights = n.weight(2, 24, 8), n.weight(2, 24, 6), n.weight(2, 48, scale=0.1)
    y = n.op("LSTM", x, *weights, hidden_size=6, direction="bidirectional")
    y = n.op("Reshape", n.op("Transpose", y, perm=[0, 2, 1, 3]), n.ints(16, -1, 12))
    return n.done(text=(n.op("LogSoftmax", n.linear(y, 12, 20), axis=-1), [16, "N", 20]))


def pointcloud() -> onnx.ModelProto:
    """Features of pillars scattered onto a grid, and convolutions on it."""
    n = Net("pointcloud")
    pillars, cells = n.input("pillars", [30, 5, 4]), n.input("cells", [30, 2])
    x = n.op("ReduceMax", n.op("Relu", n.linear(pillars, 4, 8)), axes=[1], keepdims=0)
    at = n.op("Cast", n.op("Clip", n.op("Abs", cells), n.const(0.0), n.const(15.0)), to=I64)
    summed = n.op("ScatterND", n.const(np.zeros((16, 16, 8))), at, x, reduction="add")
    grid = n.op("Unsqueeze", n.op("Transpose", summed, perm=[2, 0, 1]), n.ints(0))
    return n.done(map=(n.conv(n.op("Relu", n.conv(grid, 8, 8)), 8, 3), [1, 3, 16, 16]))


def state_space() -> onnx.ModelProto:
    """A running state that decays, by sums of logarithms along the tokens; no attention."""
    n = Net("state-space")
    x = n.tokens(n.input("input_ids", ["batch", 12], I64), 40, 8)
    mixed = n.op("Transpose", n.conv(n.op("Transpose", x, perm=[0, 2, 1]), 8, 8, axes=1), perm=[0, 2, 1])
    step = n.op("Softplus", n.linear(mixed, 8, 8))
    decay = n.op("CumSum", n.op("Mul", step, n.const(-0.3)), n.const(1, np.int64))
    entered = n.op("Mul", n.op("Mul", mixed, step), n.op("Exp", n.op("Neg", decay)))
    state = n.op("Mul", n.op("CumSum", entered, n.const(1, np.int64)), n.op("Exp", decay))
    return n.done(logits=(n.linear(n.op("Mul", state, n.swish(x)), 8, 40), ["batch", 12, 40]))


def tabular() -> onnx.ModelProto:
    """Scaled columns through two trees, as scikit-learn's converter writes them."""
    n = Net("tabular")
    x = n.input("columns", ["N", 3])
    x = n.op("Scaler", x, domain="ai.onnx.ml", offset=[0.1, 0.2, -0.3], scale=[1.0, 2.0, 0.5])
    y = n.op(
        "TreeEnsembleRegressor", x, domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        nodes_treeids=[0, 0, 0, 1, 1, 1, 1, 1], nodes_nodeids=[0, 1, 2, 0, 1, 2, 3, 4],
        nodes_featureids=[0, 0, 0, 1, 2, 0, 0, 0], nodes_values=[0.5, 0, 0, 0.2, 0.4, 0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0, 1, 2, 0, 0, 0], nodes_falsenodeids=[2, 0, 0, 4, 3, 0, 0, 0],
        target_treeids=[0, 0, 1, 1, 1], target_nodeids=[1, 2, 2, 3, 4], target_ids=[0] * 5,
        target_weights=[1.0, -1.0, 0.25, 0.5, 2.0],
    )  # fmt: skip
    return n.done(value=(y, ["N", 1]))


def time_series() -> onnx.ModelProto:
    """A GRU over a window of numbers; the next ones from its last state."""
    n = Net("time-series")
    x = n.op("Transpose", n.input("window", ["N", 12, 3]), perm=[1, 0, 2])
    weights = n.weight(1, 24, 3), n.weight(1, 24, 8), n.weight(1, 48, scale=0.1)
    _, state = n.op("GRU", x, *weights, outputs=2, hidden_size=8, linear_before_reset=1)
    return n.done(next=(n.linear(n.op("Squeeze", state, n.ints(0)), 8, 3), ["N", 3]))


def migrate() -> onnx.ModelProto:
    """A detector with a plugin node of TensorRT at its end."""
    n = Net("migrate")
    x = n.op("Relu", n.conv(n.input("image", ["N", 3, 32, 32]), 3, 8, stride=4))
    out = n.op("Transpose", n.op("Reshape", n.conv(x, 8, 7), n.ints(0, 7, 64)), perm=[0, 2, 1])
    boxes, logits = n.op("Split", out, n.ints(4, 3), outputs=2, axis=2)
    low, more = n.op("Split", n.op("Sigmoid", boxes), n.ints(2, 2), outputs=2, axis=2)
    found = n.op(
        "EfficientNMS_TRT", n.op("Concat", low, n.op("Add", low, more), axis=2), n.op("Sigmoid", logits), outputs=4,
        plugin_version="1", background_class=-1, max_output_boxes=10, score_threshold=0.25, iou_threshold=0.5,
        score_activation=0, box_coding=0,
    )  # fmt: skip
    count, kept, scores, labels = found
    whole = TensorProto.INT32
    return n.done(
        num=(count, ["N", 1], whole), boxes=(kept, ["N", 10, 4]), scores=(scores, ["N", 10]),
        classes=(labels, ["N", 10], whole),
    )  # fmt: skip


def generic() -> onnx.ModelProto:
    """No network of a kind: doubles, bits and remainders of whole numbers."""
    n = Net("generic")
    ids = n.input("ids", ["N", 6], I64)
    mixed = n.op("Mod", n.op("Mul", ids, n.const(2654435761, np.int64)), n.const(97, np.int64))
    x = n.op("Cast", mixed, to=TensorProto.DOUBLE)
    spread = n.op("Div", x, n.const(96.0, np.float64))
    flags = n.op("Greater", spread, n.const(0.5, np.float64))
    chosen = n.op("Where", flags, spread, n.op("Neg", spread))
    return n.done(value=(n.op("Cast", chosen, to=F32), ["N", 6]), large=(flags, ["N", 6], TensorProto.BOOL))


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "centernet": centernet,
    "classification": classification,
    "decoder": decoder,
    "detr": detr,
    "encoder": encoder,
    "generic": generic,
    "migrate": migrate,
    "ocr": ocr,
    "pointcloud": pointcloud,
    "rcnn": rcnn,
    "retinanet": retinanet,
    "segmentation": segmentation,
    "seq2seq": seq2seq,
    "speech": speech,
    "ssd-torch": ssd_torch,
    "state-space": state_space,
    "tabular": tabular,
    "time-series": time_series,
    "yolo": yolo,
}
"""By the pipeline that they are for; `ssd` has the models that ship beside this file."""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for pipeline in sys.argv[2:] or BUILDERS:
        onnx.save(BUILDERS[pipeline](), folder / f"{pipeline}.onnx")
        print(folder / f"{pipeline}.onnx")
