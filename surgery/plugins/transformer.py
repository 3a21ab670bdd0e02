"""The bodies of TensorRT's BERT plugins: layer normalisation, embeddings, attention, GELU.

Sources: plugin/skipLayerNormPlugin, embLayerNormPlugin, bertQKVToContextPlugin, geluPlugin and
plugin/common/common.cuh of NVIDIA/TensorRT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import narrow, numbers, same_shape, size, weights, wide

TYPE_IDS = {0: "float32", 1: "float16"}
"""nvinfer1::DataType of the dtypes that have a body."""

VECTOR_SIZES = (768, 1024)
"""Hidden sizes for which the skip kernel is another one, which adds an epsilon."""


def layer_norm(b: Body, x: str, gamma: Any, beta: Any, epsilon: float) -> str:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis; the kernels' epsilon is mostly 0."""
    centred = b.sub(x, b.reduce("ReduceMean", x, -1))
    variance = b.reduce("ReduceMean", b.mul(centred, centred), -1)
    if epsilon:
        variance = b.add(variance, b.scalar(epsilon))
    scaled = b.mul(b.div(centred, b.op("Sqrt", variance)), b.const(weights(gamma, -1)))
    return b.add(scaled, b.const(weights(beta, -1)))


# -- skip and normalise ---------------------------------------------------------------------------------


def skip_problems(a: Mapping[str, Any], hidden: int) -> list[str]:
    """Problems that weights have with the hidden size."""
    found = []
    for name in ("beta", "gamma", "bias"):
        count = None if a[name] is None else np.asarray(a[name]).size
        if count not in (None, hidden):
            found.append(f"{name} has {count} values; expected {hidden}")
    return found


def emit_skip(b: Body, node: ConfiguredNode) -> str:
    """Layer normalisation of the sum of both inputs (and the bias), over runs of as many values as gamma has."""
    a = node.attributes
    hidden = int(np.asarray(a["gamma"]).size)
    total = b.add(wide(b, node, 0), wide(b, node, 1))
    rows = b.reshape(total, -1, hidden)
    if a["bias"] is not None:
        rows = b.add(rows, b.const(weights(a["bias"], -1)))
    exact = a["type_id"] == 0 and hidden in VECTOR_SIZES
    epsilon = float(np.finfo(np.float32).eps) if exact else 0.0
    normal = layer_norm(b, rows, a["gamma"], a["beta"], epsilon)
    return narrow(b, node, same_shape(b, normal, node.input_names[0]))


# -- embeddings -----------------------------------------------------------------------------------------

PREFIX = "bert_embeddings_"


def hidden_size(a: Mapping[str, Any]) -> int:
    """Length of an embedding."""
    return int(np.asarray(a[f"{PREFIX}layernorm_gamma"]).size)


def embedding_problems(a: Mapping[str, Any]) -> list[str]:
    """Problems that the tables have with each other."""
    hidden = hidden_size(a)
    found = []
    if (count := np.asarray(a[f"{PREFIX}layernorm_beta"]).size) != hidden:
        found.append(f"{PREFIX}layernorm_beta has {count} values; expected {hidden}")
    counts = {n: np.asarray(a[f"{PREFIX}{n}_embeddings"]).size for n in ("word", "token_type", "position")}
    found += [
        f"{PREFIX}{name}_embeddings has {count} values; not a multiple of {hidden}"
        for name, count in counts.items()
        if count % hidden
    ]
    return found


def embedding_type(node: ConfiguredNode) -> str:
    """Dtype of the embeddings."""
    return "float16" if node.attributes["output_fp16"] else "float32"


def emit_embeddings(b: Body, node: ConfiguredNode, position: str) -> tuple[str, str]:
    """The sum of the three embeddings, and that sum normalised; float32, hidden values last.

    Args:
        b: Where the nodes go.
        node: Its first two inputs are the numbers of words and of segments.
        position: Embeddings of the positions, to be added to the other two.
    """
    a = node.attributes
    hidden = hidden_size(a)
    parts = []
    for index, name in enumerate(("word", "token_type")):
        table = b.const(weights(a[f"{PREFIX}{name}_embeddings"], -1, hidden))
        parts.append(b.gather(table, node.input_names[index], 0))
    total = b.add(b.add(parts[0], parts[1]), position)
    return total, layer_norm(b, total, a[f"{PREFIX}layernorm_gamma"], a[f"{PREFIX}layernorm_beta"], 0.0)


def position_table(b: Body, node: ConfiguredNode) -> str:
    """Embeddings of the positions, one per row."""
    return b.const(weights(node.attributes[f"{PREFIX}position_embeddings"], -1, hidden_size(node.attributes)))


def packed_positions(b: Body, node: ConfiguredNode) -> str:
    """Embeddings [tokens, hidden] of the place that each token has in its own sequence.

    Input 2 has the number of the first token of each sequence, and of the one after the last.
    """
    token = b.unsqueeze(numbers(b, size(b, node, 0, 0)), 1)
    starts = b.unsqueeze(b.cast(node.input_names[2], np.int64), 0)
    begun = b.logical_not(b.less(token, starts))
    first = b.reduce("ReduceMax", b.where(begun, starts, b.const(0, np.int64)), 1)
    return b.gather(position_table(b, node), b.squeeze(b.sub(token, first), 1), 0)


def packed_types(node: ConfiguredNode, second: TensorType) -> list[TensorType]:
    """Types of the outputs of the versions for sequences one after the other."""
    shape = node.inputs[0].shape if node.inputs[0] else None
    dims = (shape[0] if shape else None, hidden_size(node.attributes), 1, 1)
    return [TensorType(embedding_type(node), dims), second][: node.outputs]


# -- attention ------------------------------------------------------------------------------------------


def attention_problems(a: Mapping[str, Any], types: Sequence[TensorType | None], axis: int) -> list[str]:
    """Problems that the attributes have with each other and with the input."""
    found = []
    if a["hidden_size"] % a["num_heads"]:
        found.append(f"hidden_size {a['hidden_size']} is not a multiple of num_heads {a['num_heads']}")
    first = types[0] if types else None
    width = first.shape[axis] if first is not None and first.shape else None
    if isinstance(width, int) and width != 3 * a["hidden_size"]:
        found.append(f"the input has {width} values per token; expected 3 * {a['hidden_size']}")
    return found


def emit_batched_attention(b: Body, node: ConfiguredNode, lengths: str | None) -> str:
    """Attention of [S, B, 3 * E, 1, 1], (head, query or key or value, value) order, as [S, B, E, 1, 1]; float32.

    Args:
        b: Where the nodes go.
        node: The plugin node.
        lengths: Valid keys of each sequence, [B] or [B, 1], or None for all of them.
    """
    a = node.attributes
    heads = a["num_heads"]
    depth = a["hidden_size"] // heads
    parts = b.split(b.reshape(wide(b, node, 0), 0, 0, heads, 3, depth), 3, 3)
    q, k, v = (b.squeeze(p, 3) for p in parts)
    q, v = (b.transpose(p, 1, 2, 0, 3) for p in (q, v))  # [B, heads, S, depth]
    k = b.transpose(k, 1, 2, 3, 0)
    valid = None
    if lengths is not None:
        key = numbers(b, size(b, node, 0, 0))
        valid = b.less(key, b.reshape(b.cast(lengths, np.int64), -1, 1, 1, 1))
    mixed = _attend(b, q, k, v, valid, depth)
    joined = b.reshape(b.transpose(mixed, 2, 0, 1, 3), 0, 0, heads * depth)
    return b.unsqueeze(joined, 3, 4)


def emit_packed_attention(b: Body, node: ConfiguredNode, starts: str) -> str:
    """Attention of [tokens, 3 * E, 1, 1] of sequences one after the other, as [tokens, E, 1, 1]; float32.

    Args:
        b: Where the nodes go.
        node: The plugin node.
        starts: Number of the first token of each sequence, and of the one after the last: [B + 1].
    """
    a = node.attributes
    heads = a["num_heads"]
    depth = a["hidden_size"] // heads
    parts = b.split(b.reshape(wide(b, node, 0), 0, heads, 3, depth), 2, 3)
    q, k, v = (b.squeeze(p, 2) for p in parts)
    q, v = (b.transpose(p, 1, 0, 2) for p in (q, v))  # [heads, tokens, depth]
    k = b.transpose(k, 1, 2, 0)
    token = b.unsqueeze(numbers(b, size(b, node, 0, 0)), 1)
    begun = b.cast(b.logical_not(b.less(token, b.unsqueeze(b.cast(starts, np.int64), 0))), np.float32)
    sequence = b.reduce("ReduceSum", begun, 1)  # how many have begun: the number of the sequence
    valid = b.equal(b.cast(sequence, np.int64), b.transpose(b.cast(sequence, np.int64), 1, 0))
    mixed = _attend(b, q, k, v, valid, depth)
    joined = b.reshape(b.transpose(mixed, 1, 0, 2), 0, heads * depth)
    return b.unsqueeze(joined, 2, 3)


def _attend(b: Body, q: str, keys: str, v: str, valid: str | None, depth: int) -> str:
    """Values weighted by softmax(q keys / sqrt(depth)) over the valid keys (none valid: zeros, as in the kernel).

    Args:
        b: Where the nodes go.
        q: Queries [..., S, depth].
        keys: Keys [..., depth, S].
        v: Values [..., S, depth].
        valid: Which keys count, to be broadcast to [..., S, S]; None for all of them.
        depth: Size of a head.
    """
    scores = b.mul(b.op("MatMul", q, keys), b.scalar(1.0 / math.sqrt(depth)))
    if valid is not None:
        scores = b.where(valid, scores, b.scalar(SMALLEST))
    shares = b.op("Softmax", scores, axis=-1)
    if valid is not None:
        shares = b.where(valid, shares, b.scalar(0.0))
    return b.op("MatMul", shares, v)


# -- GELU -----------------------------------------------------------------------------------------------


def emit_gelu(b: Body, x: str) -> str:
    """X (1 + tanh(x (c x x + d))) / 2, c = 0.0357 = 0.044715 d, d = sqrt(2 / pi); float32."""
    inner = b.add(b.mul(b.mul(b.scalar(0.035677408136300125), x), x), b.scalar(0.7978845608028654))
    half = b.scalar(0.5)
    return b.mul(x, b.add(half, b.mul(half, b.op("Tanh", b.mul(x, inner)))))
