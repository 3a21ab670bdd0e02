"""TensorRT's BERT and DeBERTa plugins, mmdeploy's attention: sums and softmax written out in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

D = np.float64
Arrays = list[np.ndarray]
Attributes = dict[str, Any]


def layer_norm(row: np.ndarray, gamma: Any, beta: Any, epsilon: float = 0.0) -> np.ndarray:
    row = row.astype(D)
    variance = (row * row).mean() - row.mean() ** 2
    scaled = (row - row.mean()) / math.sqrt(variance + epsilon)
    return scaled * np.ravel(gamma).astype(D) + np.ravel(beta).astype(D)


def skip(a: Attributes, x: Arrays) -> Arrays:
    total = (x[0].astype(D) + x[1].astype(D)).reshape(-1, np.size(a["gamma"]))
    if a.get("bias") is not None:
        total = total + np.ravel(a["bias"]).astype(D)
    epsilon = 2.0**-23 if a["type_id"] == 0 and total.shape[1] in (768, 1024) else 0.0
    rows = [layer_norm(r, a["gamma"], a["beta"], epsilon) for r in total]
    return [np.stack(rows).reshape(x[0].shape).astype(x[0].dtype)]


def embedded(a: Attributes, word: int, segment: int, position: int) -> np.ndarray:
    gamma = np.ravel(a["bert_embeddings_layernorm_gamma"])
    tables = [
        np.asarray(a[f"bert_embeddings_{n}_embeddings"], D).reshape(-1, gamma.size)
        for n in ("word", "token_type", "position")
    ]
    return tables[0][word] + tables[1][segment] + tables[2][position]


def normalised(a: Attributes, row: np.ndarray) -> np.ndarray:
    return layer_norm(row, a["bert_embeddings_layernorm_gamma"], a["bert_embeddings_layernorm_beta"])


def embed_padded(a: Attributes, x: Arrays) -> Arrays:
    words, segments, mask = x
    length, batch = words.shape
    hidden = np.size(a["bert_embeddings_layernorm_gamma"])
    out = np.zeros((length, batch, hidden, 1, 1))
    valid = np.full((batch, 1), length, np.int32)
    for s, i in np.ndindex(length, batch):
        out[s, i, :, 0, 0] = normalised(a, embedded(a, words[s, i], segments[s, i], s))
        if mask[s, i] == 0:
            valid[i, 0] = min(valid[i, 0], s)
    return [out.astype(np.float16 if a.get("output_fp16") else np.float32), valid]


def embed_packed(a: Attributes, x: Arrays, *, sums: bool) -> Arrays:
    words, segments, starts = x[:3]
    hidden = np.size(a["bert_embeddings_layernorm_gamma"])
    total = np.zeros((len(words), hidden, 1, 1))
    out = np.zeros_like(total)
    for first, end in itertools.pairwise(starts):
        for t in range(first, end):
            total[t, :, 0, 0] = embedded(a, words[t], segments[t], t - first)
            out[t, :, 0, 0] = normalised(a, total[t, :, 0, 0])
    dtype = np.float16 if a.get("output_fp16") else np.float32
    return [out.astype(dtype), total.astype(dtype) if sums else np.array(0, np.int32)]


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def one_sequence(tokens: np.ndarray, heads: int, valid: int) -> np.ndarray:
    """[S, 3 * E] to [S, E]; only the first `valid` keys count."""
    depth = tokens.shape[1] // (3 * heads)
    out = np.zeros((len(tokens), heads * depth))
    for h in range(heads):
        q, k, v = (tokens[:, (3 * h + i) * depth : (3 * h + i + 1) * depth].astype(D) for i in range(3))
        for s in range(len(tokens) if valid else 0):
            shares = softmax(np.array([q[s] @ k[t] for t in range(valid)]) / math.sqrt(depth))
            out[s, h * depth : (h + 1) * depth] = shares @ v[:valid]
    return out


def attend_padded(a: Attributes, x: Arrays) -> Arrays:
    length, batch = x[0].shape[:2]
    out = np.zeros((length, batch, a["hidden_size"], 1, 1))
    for i in range(batch):
        valid = min(int(np.ravel(x[1])[i]), length) if len(x) > 1 else length
        out[:, i, :, 0, 0] = one_sequence(x[0][:, i, :, 0, 0], a["num_heads"], valid)
    return [out.astype(x[0].dtype)]


def attend(a: Attributes, x: Arrays) -> Arrays:
    if not a.get("var_seqlen"):
        return attend_padded(a, x)
    out = np.zeros((len(x[0]), a["hidden_size"], 1, 1))
    for first, end in itertools.pairwise(x[2]):
        tokens = x[0][first:end, :, 0, 0]
        out[first:end, :, 0, 0] = one_sequence(tokens, a["num_heads"], len(tokens))
    return [out.astype(x[0].dtype)]


def gelu(a: Attributes, x: Arrays) -> Arrays:
    value = x[0].astype(D)
    if a.get("bias") is not None:
        bias = np.ravel(a["bias"]).astype(D)
        value = (value.reshape(-1, bias.size) + bias).reshape(value.shape)
    cdf = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
    return [(value * cdf).astype(x[0].dtype)]


def fully_connected(a: Attributes, x: Arrays) -> Arrays:
    weight = np.asarray(a["W"], D).reshape(-1, a["out_dims"])
    rows = x[0][..., 0, 0].astype(D)
    return [(rows @ weight)[..., None, None].astype(x[0].dtype)]


def bucket(distance: int, span: int, width: int) -> int:
    """The relative position's column: exact up to span / 2, logarithmic beyond."""
    middle = span // 2
    found = distance
    if abs(distance) > middle:
        part = (middle - 1) / (math.log(width - 1) - math.log(middle)) * (1 - 1e-7)
        steps = math.ceil((math.log(abs(distance)) - math.log(middle)) * part) + middle
        found = steps if distance > 0 else -steps
    return min(max(found + span, 0), 2 * span - 1)


def disentangled(a: Attributes, x: Arrays) -> Arrays:
    content, to_position, to_content = (v.astype(D) for v in x)
    width = x[1].shape[2]
    out = np.zeros(x[0].shape)
    for i, j, k in np.ndindex(x[0].shape):
        at = bucket(j - k, a["span"], width)
        out[i, j, k] = (content[i, j, k] + to_position[i, j, at] + to_content[i, k, at]) * a["factor"]
    return [out.astype(x[0].dtype)]


def scaled_dot_product(a: Attributes, x: Arrays) -> Arrays:
    query, key, value = (v.astype(D) for v in x[:3])
    shares = np.zeros((len(query), query.shape[1], key.shape[1]))
    for i, t in np.ndindex(shares.shape[:2]):
        scores = np.array([query[i, t] @ row for row in key[i]]) / math.sqrt(query.shape[2])
        if len(x) > 3:
            mask = x[3] if x[3].ndim == 2 else x[3][i if len(x[3]) > 1 else 0]
            scores = scores + mask[t if len(mask) > 1 else 0]
        shares[i, t] = softmax(scores)
    out = np.stack([s @ v for s, v in zip(shares, value, strict=True)])
    return [out.astype(np.float32), shares.astype(np.float32)]


REFERENCES = {
    "CustomEmbLayerNormPluginDynamic:4": lambda a, x: embed_packed(a, x, sums=False),
    "CustomEmbLayerNormPluginDynamic:5": lambda a, x: embed_packed(a, x, sums=True),
    "CustomEmbLayerNormPluginDynamic:6": embed_padded,
    "CustomFCPluginDynamic": fully_connected,
    "CustomGeluPluginDynamic": gelu,
    "CustomQKVToContextPluginDynamic": attend,
    "CustomSkipLayerNormPluginDynamic": skip,
    "DisentangledAttention_TRT": disentangled,
    "ScaledDotProductAttentionTRT": scaled_dot_product,
}
